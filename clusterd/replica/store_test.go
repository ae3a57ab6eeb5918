package replica

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// After a write that failed the library asks for entries that it had cut off before, and
// would panic at the answer that they are not there. It gets none; the replica ends.
func TestNoEntryIsDeniedAfterAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := &badDisk{}
		s, err := openStore(t.TempDir(), bad, ofCluster().Segment, time.Minute, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.StoreLogs([]*raft.Log{{Index: 1, Term: 1}, {Index: 2, Term: 1}}); err != nil {
			t.Fatal(err)
		}
		var entry raft.Log
		if err := s.GetLog(3, &entry); !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("beyond the end of a sound log: %v", err)
		}
		if err := s.DeleteRange(2, 2); err != nil {
			t.Fatal(err)
		}
		bad.bite(LogWrite, 1, nil)
		if err := s.StoreLogs([]*raft.Log{{Index: 2, Term: 2}}); err == nil || !bad.hit {
			t.Fatalf("the write did not fail: %v", err)
		}
		asked, answered := make(chan struct{}), false
		go func() {
			defer close(asked)
			_ = s.GetLog(2, &entry) // the goroutine ends in it
			answered = true
		}()
		synctest.Wait()
		select {
		case <-asked:
			t.Fatal("it was answered")
		default:
		}
		close(s.closing)
		<-asked
		if answered {
			t.Error("it was answered when the replica was closed")
		}
		s.close()
	})
}
