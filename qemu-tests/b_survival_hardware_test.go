//go:build vm

package qemutests

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// A master's mainboard is replaced, or its medium was copied: the machine that answers
// under its name is another one. It runs tasks like any node and has no vote, everybody
// says so, and the cluster works on. An operator's word lets it in; then it really votes:
// the third master may lose power.
func TestAnotherMachineUnderAMastersNameWaits(t *testing.T) {
	w := three(t)
	leader, err := w.WaitLeader(within(t, toNotice))
	if err != nil {
		t.Fatal(err)
	}
	var others []*cluster.Machine
	for _, m := range w.Machines() {
		if m.Node.Name != leader.Name {
			others = append(others, m)
		}
	}
	swapped, third := others[0], others[1]
	name := swapped.Node.Name
	swapped.PowerCut()
	swapped.Node.Serial += "-replaced"
	if err := swapped.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}

	var waits node.Held
	eventually(t, within(t, toElect), func() error {
		held := w.held(t, name)
		if len(held) != 1 {
			return fmt.Errorf("held: %v", held)
		}
		waits = held[0]
		h, err := w.nodeAPI(swapped.Node).Health(t.Context())
		if err != nil || !strings.Contains(h.Status.Summary, "lith nodes admit "+name) {
			return errors.Join(err, fmt.Errorf("%s says of itself: %q", name, h.Status.Summary))
		}
		return nil
	})
	fmt.Printf("held: %+v\n", waits)
	f := w.framework(t, false)
	while := f.task(t, "while-held", "say", "ran")
	while.Hostname = swapped.Node.Address.String() // the machine is a node like others
	wantState(t, f.runToEnd(t, while)[0], mesosv1.TaskState_TASK_FINISHED)
	if held := w.held(t, name); !slices.Equal(held, []node.Held{waits}) {
		t.Fatalf("after a task: held %v", held)
	}

	// The word is said to the master that does not lead: it travels.
	if err := w.nodeAPI(third.Node).Admit(t.Context(), waits); err != nil {
		t.Fatal(err)
	}
	eventually(t, within(t, toElect), func() error {
		if held := w.held(t, name); len(held) != 0 {
			return fmt.Errorf("still held: %v", held)
		}
		for _, m := range w.Machines() {
			log := whole(t, func() (io.ReadCloser, error) { return w.nodeAPI(m.Node).Logs(t.Context(), "clusterd", false) })
			if at := strings.Index(log, "another machine carries a master's name"); at >= 0 && strings.Contains(log[at:], `"msg":"member votes","room":"masters","server":"`+name+"/") {
				return nil
			}
		}
		return errors.New("no leader has given it a vote")
	})
	third.PowerCut()
	two := f.task(t, "two-of-three", "say", "ran")
	two.Hostname = swapped.Node.Address.String() // the one without power is offered until it is missed
	wantState(t, f.runToEnd(t, two)[0], mesosv1.TaskState_TASK_FINISHED)
}

// held asks every master but one what it holds under that one's name.
func (w *world) held(t *testing.T, name string) []node.Held {
	t.Helper()
	var all []node.Held
	for _, m := range w.Machines() {
		if m.Node.Name == name {
			continue
		}
		h, err := w.nodeAPI(m.Node).Health(t.Context())
		if err != nil {
			t.Log(err)
			continue
		}
		for _, held := range h.Status.Held {
			if held.Master == name && !slices.Contains(all, held) {
				all = append(all, held)
			}
		}
	}
	return all
}
