package run

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
)

// rewrite changes a container's record as a keeper that died left it.
func (h *house) rewrite(id string, f func(*records.Record)) {
	h.t.Helper()
	store, found, err := records.Open(filepath.Join(h.dir, "state", "containers"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range found.Records {
		if r.Container.GetContainerId() != id {
			continue
		}
		f(&r)
		if err := store.Put(r); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	h.t.Fatalf("no record of %s", id)
}

// A kill that was recorded during a launch holds also for the keeper that begins the
// launch again: the program never starts.
func TestKillDuringALaunchOutlivesTheKeeper(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("early", "sleep 1000"))
	h.until("early", running)
	h.k.Kill(&keeper.Kill{ContainerId: "early", Term: 1})
	h.until("early", gone)
	h.close()
	h.rewrite("early", func(r *records.Record) {
		r.Step = records.Accepted
		r.Container = &keeper.Container{ContainerId: "early", TaskId: "t", KillRequested: true, Sandbox: r.Container.GetSandbox()}
	})
	h.open()
	got := h.until("early", gone)
	if got.GetFailure() != keeper.Container_KILLED_DURING_LAUNCH || got.GetPid() != 0 {
		t.Errorf("the container was started again: %v", got)
	}
}

// Why a container is ended is recorded before it is: a keeper that died in between, or
// right after, leaves the reason to the next one.
func TestLimitOutlivesTheKeeper(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("full", "sleep 1000"))
	h.until("full", running)
	h.close()
	const why = "Disk limit exceeded: as the keeper before said"
	h.rewrite("full", func(r *records.Record) {
		r.Container.Limitation, r.Container.Message = keeper.Container_DISK, why
	})
	h.open()
	if got := h.until("full", gone); got.GetLimitation() != keeper.Container_DISK || got.GetMessage() != why {
		t.Errorf("ended as %v", got)
	}
}

// stubbornNetwork does not let go at once.
type stubbornNetwork struct {
	mu       sync.Mutex
	attached map[string]bool
	refusals int
	let      chan struct{}
}

func (n *stubbornNetwork) Attach(_ context.Context, a Attachment) (Attached, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[a.ID] = true
	return Attached{IPs: []string{"10.88.0.2"}}, nil
}

func (n *stubbornNetwork) Detach(_ context.Context, id, _ string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.attached[id] {
		return nil
	}
	if n.refusals > 0 {
		n.refusals--
		return errors.New("the plugin fails")
	}
	delete(n.attached, id)
	close(n.let)
	return nil
}

func (n *stubbornNetwork) Restore(context.Context, map[string]bool) error { return nil }

// A network that cannot be taken away at a container's end is tried again, and does not
// keep the end from being told.
func TestNetworkThatStaysIsTakenAwayLater(t *testing.T) {
	network := &stubbornNetwork{attached: map[string]bool{}, refusals: 2, let: make(chan struct{})}
	h := &house{t: t, dir: t.TempDir(), network: network}
	h.open()
	t.Cleanup(h.close)
	h.launch(launchOf("c", "exit 7"))
	if got := h.until("c", gone); got.GetWaitStatus() != 7<<8 || got.GetFailure() != keeper.Container_NONE {
		t.Errorf("ended as %v", got)
	}
	if err := h.k.Forget([]string{"c"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-network.let:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
