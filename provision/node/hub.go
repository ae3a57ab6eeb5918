package node

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/internal/wire/noded"
)

// hub holds what noded knows of the machine. Everyone who waits for a change holds the
// channel of the version he saw; it is closed by the next change.
type hub struct {
	mu      sync.Mutex
	node    *noded.Node // never changed in place
	ready   bool        // document and incarnation are there
	status  *noded.ClusterStatus
	hints   []*noded.Issuer
	waiting []string // what the search for a document looked at, while there is none
	changed chan struct{}
}

// view is one version of what is known.
type view struct {
	node    *noded.Node
	ready   bool
	status  *noded.ClusterStatus
	hints   []*noded.Issuer
	waiting []string
	changed <-chan struct{}
}

func newHub(first *noded.Node) *hub {
	return &hub{node: first, status: &noded.ClusterStatus{}, changed: make(chan struct{})}
}

func (h *hub) view() view {
	h.mu.Lock()
	defer h.mu.Unlock()
	return view{h.node, h.ready, h.status, h.hints, h.waiting, h.changed}
}

// change makes a new version out of a copy of the node.
func (h *hub) change(f func(n *noded.Node)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := proto.CloneOf(h.node)
	f(next)
	if proto.Equal(next, h.node) {
		return
	}
	h.node = next
	h.wake()
}

func (h *hub) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *hub) setReady() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = true
	h.wake()
}

func (h *hub) setStatus(s *noded.ClusterStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = s
}

func (h *hub) setWaiting(lines []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = lines
}

const maxHints = 64

func (h *hub) setHints(list []*noded.Issuer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list = list[:min(len(list), maxHints)]
	if slices.EqualFunc(h.hints, list, func(a, b *noded.Issuer) bool { return proto.Equal(a, b) }) {
		return // who waits before he asks again is not woken by nothing new
	}
	h.hints = list
	h.wake()
}

// await gives the first view that a condition holds for.
func (h *hub) await(ctx context.Context, ok func(view) bool) (view, error) {
	for {
		v := h.view()
		if ok(v) {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return view{}, ctx.Err()
		case <-v.changed:
		}
	}
}

// maxAdmitted bounds what operators say of masters' hardware between two boots.
const maxAdmitted = 64

// admit keeps an operator's word, the last one for each master. False: there are too many
// already.
func (h *hub) admit(word *noded.AdmittedHardware) bool {
	kept := false
	h.change(func(n *noded.Node) {
		n.Admitted = slices.DeleteFunc(n.Admitted, func(a *noded.AdmittedHardware) bool { return a.GetMaster() == word.GetMaster() })
		if kept = len(n.Admitted) < maxAdmitted; kept {
			n.Admitted = append(n.Admitted, word)
		}
	})
	return kept
}
