package replica

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/hashicorp/raft"
)

// startLibrary starts it in a goroutine of its own, because a disk that fails ends that
// (store.hold), and makes errors of its panics. After an error nothing is left open.
func (r *Replica) startLibrary(notify chan bool) error {
	err := r.checkSnapshots()
	started := make(chan struct{})
	if err != nil {
		close(started)
	} else {
		ended := make(chan error, 1)
		go func() {
			defer close(started)
			err := errors.New("the library gave up")
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("the library panics: %v", p)
				}
				ended <- err
			}()
			f := &fsm{m: r.cfg.Machine, disk: r.cfg.Disk, fail: r.fail}
			r.raft, err = raft.NewRaft(libraryConfig(r.cfg, notify), f, r.log, r.log, r.snaps, &transport{r.trans, r.stream})
		}()
		select {
		case err = <-ended:
		case <-r.failed:
		}
		if failure := r.Failure(); failure != nil {
			err = failure
		}
	}
	if err == nil {
		return nil
	}
	close(r.log.closing)
	r.stream.cancel()
	r.trans.Close()
	<-started
	if r.raft != nil {
		_ = r.raft.Shutdown().Error() // what failed is known
	}
	return errors.Join(err, r.log.close())
}

// advise adds to an error what is to be done about it, once.
func advise(dir string, err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	if hint := "make room on the file system of "; !strings.Contains(err.Error(), hint) {
		return fmt.Errorf("%w: %s%s", err, hint, dir)
	}
	return err
}
