//go:build vm

package qemutests

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A worker whose cable is out from the start says that it waits, keeps trying ever more
// seldom, and joins when the cable is in: after ten minutes in the long form, which are lived
// through on virtual time, too (net/dhcp and provision/node/lan).
func TestANodeWithoutNetworkJoinsLater(t *testing.T) {
	apart(t, 2)
	stopwatch(t)
	w := newWorld(t, options{nodes: 2, prepare: true})
	machines := w.Machines()
	master, late := machines[0], machines[1]
	if late.Node.Master {
		t.Fatalf("%s is a master: %+v", late.Node.Name, late.Node)
	}
	cable := func(in bool) {
		t.Helper()
		if _, err := late.VM().Execute(t.Context(), "set_link", map[string]any{"name": "lan0", "up": in}); err != nil {
			t.Fatal(err)
		}
	}
	if err := late.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	cable(false)
	out := time.Now()
	if err := master.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WaitLeader(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	console := late.VM().Console
	line, err := console.Wait(within(t, toElect), 0, "mesolith: network ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("it says %q", line.Text)
	if _, err := console.Wait(within(t, toElect), 0, "certificate: none yet: no master has been heard on the LAN yet"); err != nil {
		t.Fatal(err)
	}
	pass(t, withoutCable)
	if agents, err := w.Agents(t.Context()); err != nil || len(agents) > 1 {
		t.Fatalf("%d agents with the cable out, %v", len(agents), err)
	}
	cable(true)
	t.Logf("the cable was out for %.0f s", time.Since(out).Seconds())
	eventually(t, within(t, toElect), func() error {
		agents, err := w.Agents(t.Context())
		if err == nil && len(agents) != 2 {
			err = fmt.Errorf("%d agents", len(agents))
		}
		return err
	})
	said := map[string]int{}
	for _, l := range console.Lines(0) {
		if _, text, ok := strings.Cut(l.Text, "mesolith: network "); ok {
			said[text]++
		}
	}
	for text, n := range said {
		if n > 1 {
			t.Errorf("%d times: %s", n, text)
		}
	}
	if v := late.VM(); v.Events("WATCHDOG") > 0 {
		t.Error("the watchdog bit")
	}
}

// pass lets time pass, which is what a cut is about.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
