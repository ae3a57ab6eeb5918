package route

import (
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/net/link"
)

// inOwnNamespace moves the test's thread into an empty network namespace; the thread ends
// with the test, because it is never unlocked.
func inOwnNamespace(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace of its own needs root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("a network namespace of its own: %v", err)
	}
}

// TestDoTwice carries plans out on a real card of a namespace, observes, and plans again.
func TestDoTwice(t *testing.T) {
	inOwnNamespace(t)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "card0"}, PeerName: "card1"}); err != nil {
		t.Skipf("no virtual card in this kernel: %v", err)
	}
	card := find(t)
	for _, address := range []string{"10.7.0.11/24", "10.7.0.12/24"} {
		want := link.Want{Index: card.Index, Address: netip.MustParsePrefix(address), MTU: 1400}
		steps, err := link.Plan(want, []link.Link{find(t)})
		if err != nil || len(steps) == 0 {
			t.Fatalf("steps %v: %v", steps, err)
		}
		for range 2 {
			for _, s := range steps {
				if err := link.Do(s); err != nil {
					t.Fatal(err)
				}
			}
		}
		if again, err := link.Plan(want, []link.Link{find(t)}); err != nil || len(again) > 0 {
			t.Errorf("after doing the plan there is left %v (%v)", again, err)
		}
	}
	for _, gateway := range []string{"10.7.0.1", "10.99.0.1"} { // the second is outside the prefix
		want := Route{Link: card.Index, Gateway: netip.MustParseAddr(gateway), Metric: 100}
		have, err := Observe()
		if err != nil {
			t.Fatal(err)
		}
		steps := Plan(want, have)
		for range 2 {
			for _, s := range steps {
				if err := Do(s); err != nil {
					t.Fatal(err)
				}
			}
		}
		if have, err = Observe(); err != nil || len(have) != 1 || have[0] != want {
			t.Errorf("routes %v (%v), want %v", have, err, want)
		}
	}
}

func find(t *testing.T) link.Link {
	t.Helper()
	have, err := link.Observe()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range have {
		if l.Name == "card0" {
			return l
		}
	}
	t.Fatal("the card is gone")
	return link.Link{}
}
