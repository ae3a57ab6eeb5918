package firewall

import (
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// alone runs the test's body in a network namespace of its own.
func alone(t *testing.T, body func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may make network namespaces")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("new network namespace: %v", err)
			return
		}
		body()
	}()
	<-done
}

func ruleCount(t *testing.T, chain string) int {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Error(err)
		return -1
	}
	rules, err := conn.GetRules(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}, &nftables.Chain{Name: chain})
	if err != nil {
		t.Error(err)
	}
	return len(rules)
}

func TestTheKernelTakesTheTable(t *testing.T) {
	var many []Mapping
	for i := range 1000 {
		port := uint16(20000 + 2*i)
		many = append(many, Mapping{Begin: port, End: port + 1, Container: port, Address: first})
	}
	alone(t, func() {
		for _, want := range []int{2000, 2000, 0, 2} {
			table, err := Plan(settings(many[:want/2]...))
			if err == nil {
				err = Replace(table)
			}
			if err != nil {
				t.Error(err)
				return
			}
			if got := ruleCount(t, "ports-in"); got != want {
				t.Errorf("%d rules, want %d", got, want)
			}
		}
	})
}

func TestATableThatIsRefusedLeavesTheOldOne(t *testing.T) {
	alone(t, func() {
		good, err := Plan(settings(Mapping{Begin: 31000, End: 31000, Container: 31000, Address: first}))
		if err == nil {
			err = Replace(good)
		}
		if err != nil {
			t.Error(err)
			return
		}
		bad := Table{Chains: []Chain{{Name: "x", Kind: NAT, Hook: Forward}}} // no such NAT hook
		if err := Replace(bad); err == nil {
			t.Error("the kernel took a NAT chain at forward")
		}
		if got := ruleCount(t, "ports-in"); got != 2 {
			t.Errorf("%d rules are left of 2", got)
		}
	})
}

func TestRemoveTwice(t *testing.T) {
	alone(t, func() {
		for range 2 {
			if err := Remove(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestForgetWithNothingTracked(t *testing.T) {
	alone(t, func() {
		if err := Forget(netip.MustParseAddr("10.88.1.2"), nil); err != nil {
			t.Error(err)
		}
	})
}
