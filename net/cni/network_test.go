package cni

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var pool = netip.MustParsePrefix("10.88.0.0/16")

func nodeSettings(own, other int) Settings {
	address := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 7, 0, byte(10 + n)}) }
	subnet := func(n int) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, byte(n), 0}), 24) }
	return Settings{
		Version: 1, Pool: pool, Subnet: subnet(own), Address: address(own), MTU: 1400,
		Routes: []Route{{Subnet: subnet(other), Via: address(other)}, {Subnet: subnet(own), Via: address(own)}},
	}
}

// TestTwoNodesAndAStranger is the whole promise, with real plugins and a real kernel: two
// nodes and somebody without any route to the task networks on one LAN.
func TestTwoNodesAndAStranger(t *testing.T) {
	bin := cniPlugins(t)
	stranger, placeA, placeB := newPlace(t, "stranger"), newPlace(t, "node-a"), newPlace(t, "node-b")
	lan(t, map[string]*place{"10.7.0.11": placeA, "10.7.0.12": placeB, "10.7.0.99": stranger})
	a := newMachine(t, placeA, bin, t.TempDir(), nodeSettings(1, 2))
	b := newMachine(t, placeB, bin, t.TempDir(), nodeSettings(2, 1))

	task1, task2, task3 := newPlace(t, "task1"), newPlace(t, "task2"), newPlace(t, "task3")
	at1 := a.attach(task1, PortRange{Begin: 31000, End: 31001}, PortRange{Begin: 8080, End: 8080, Container: 80})
	at2 := a.attach(task2, PortRange{Begin: 31005, End: 31005})
	at3 := b.attach(task3, PortRange{Begin: 31000, End: 31000})
	ip1, ip2, ip3 := at1.Addresses[0].String(), at2.Addresses[0].String(), at3.Addresses[0].String()
	for _, task := range []*place{task1, task2, task3} {
		for _, port := range []int{80, 5053, 31000, 31005} {
			task.answer(port)
		}
	}
	for _, p := range []*place{placeA, placeB, stranger} {
		for _, port := range []int{5050, 5052, 5053, 5054, 7000} {
			p.answer(port)
		}
	}

	t.Run("a task's address is good in the whole cluster, and seen as it is", func(t *testing.T) {
		task1.hears(ip3+":80", "task3", ip1)
		task3.hears(ip1+":80", "task1", ip3)
		task1.hears(ip2+":80", "task2", ip1)
		placeB.hears(ip1+":80", "task1", "10.7.0.12")
		task1.hears(ip3+":5053", "task3", ip1) // no matter which port
		task1.hears("127.0.0.1:80", "task1", "127.0.0.1")
	})
	t.Run("ports are the task's on the node's address", func(t *testing.T) {
		stranger.hears("10.7.0.11:31000", "task1", "10.7.0.99")
		stranger.hears("10.7.0.12:31000", "task3", "10.7.0.99")
		stranger.hears("10.7.0.11:8080", "task1", "10.7.0.99")
		stranger.hears("10.7.0.11:31005", "task2", "10.7.0.99")
		stranger.findsShut("10.7.0.11:31006")
		task3.hears("10.7.0.11:31000", "task1", "10.7.0.12")
	})
	t.Run("and on every local address, for the node itself", func(t *testing.T) {
		placeA.hears("127.0.0.1:31000", "task1", "10.88.1.1")
		placeA.hears("10.7.0.11:31000", "task1", "")
		placeA.hears("10.88.1.1:31000", "task1", "10.88.1.1")
	})
	t.Run("a task finds itself and its neighbour by the node's address", func(t *testing.T) {
		task1.hears("10.7.0.11:31000", "task1", "10.88.1.1")
		task2.hears("10.7.0.11:31000", "task1", "10.88.1.1")
		task1.hears("10.7.0.11:31005", "task2", "10.88.1.1")
	})
	t.Run("outside sees the node", func(t *testing.T) {
		task1.hears("10.7.0.99:7000", "stranger", "10.7.0.11")
		task3.hears("10.7.0.99:7000", "stranger", "10.7.0.12")
	})
	t.Run("nodes speak with each other and serve tasks their API", func(t *testing.T) {
		placeA.hears("10.7.0.12:5052", "node-b", "10.7.0.11")
		stranger.hears("10.7.0.11:5053", "node-a", "10.7.0.99")
		task1.hearsBy("tcp4", "10.7.0.11:5050", "node-a", ip1) // a wildcard UDP socket answers from another address
		task1.hears("10.7.0.12:5050", "node-b", "10.7.0.11")
	})
	t.Run("node to node is not tracked", func(t *testing.T) {
		flows := a.flows(t)
		if flows == 0 {
			t.Fatal("nothing is tracked, so this proves nothing")
		}
		if n := a.flowsTo(t, 5052); n != 0 {
			t.Errorf("%d tracked flows to 5052", n)
		}
	})
	t.Run("5052 to 5054 are shut to tasks", func(t *testing.T) {
		before := placeA.asked.Load() + placeB.asked.Load() + stranger.asked.Load()
		for _, host := range []string{"10.7.0.11", "10.7.0.12", "10.88.1.1", "10.88.2.1", "10.7.0.99"} {
			for _, port := range []string{"5052", "5053", "5054"} {
				task1.findsShut(host + ":" + port)
			}
		}
		task1.findsShut("127.0.0.1:5052")
		if n := placeA.asked.Load() + placeB.asked.Load() + stranger.asked.Load() - before; n != 0 {
			t.Errorf("%d packets arrived, even if no answer came back", n)
		}
	})
	t.Run("a UDP client that keeps its port finds the port's new task", func(t *testing.T) {
		client := stranger.converse("10.7.0.11:31005")
		if said := client(); said != "task2 10.7.0.99" {
			t.Errorf("heard %q", said)
		}
		for _, task := range []*place{task1, task2} {
			a.do("detach", func() error { return a.network.Detach(context.Background(), task.name, task.path) })
		}
		a.attach(task1, PortRange{Begin: 31005, End: 31005})
		if said := client(); said != "task1 10.7.0.99" {
			t.Errorf("heard %q", said)
		}
		a.do("detach", func() error { return a.network.Detach(context.Background(), "task1", task1.path) })
		a.attach(task1, PortRange{Begin: 31000, End: 31000})
		a.attach(task2, PortRange{Begin: 31005, End: 31005})
	})
	t.Run("a port that is gone is gone", func(t *testing.T) {
		for range 2 {
			a.do("detach", func() error { return a.network.Detach(context.Background(), "task1", task1.path) })
		}
		stranger.findsShut("10.7.0.11:31000")
		stranger.hears("10.7.0.11:31005", "task2", "10.7.0.99")
		a.attach(task1, PortRange{Begin: 31000, End: 31000})
		stranger.hears("10.7.0.11:31000", "task1", "10.7.0.99")
	})
}

func (m *machine) flows(t *testing.T) int { return m.flowsTo(t, 0) }

// flowsTo counts tracked flows; port 0 counts all.
func (m *machine) flowsTo(t *testing.T, port uint16) (count int) {
	t.Helper()
	m.do("list tracked flows", func() error {
		list, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, f := range list {
			if port == 0 || f.Forward.DstPort == port {
				count++
			}
		}
		return err
	})
	return count
}

// alone is a node without others.
func alone(t *testing.T) (m *machine, bin, dir string) {
	t.Helper()
	bin, dir = cniPlugins(t), t.TempDir()
	p := newPlace(t, "node")
	if err := loopbackUp(p.path); err != nil {
		t.Fatal(err)
	}
	return newMachine(t, p, bin, dir, Settings{
		Version: 3, Pool: pool, Subnet: netip.MustParsePrefix("10.88.1.0/24"), Address: netip.MustParseAddr("10.7.0.11"),
	}), bin, dir
}

func (m *machine) ports(t *testing.T) (count int) {
	t.Helper()
	m.do("list ports of the bridge", func() error {
		ports, err := bridgePorts()
		count = len(ports)
		return err
	})
	return count
}

func leases(t *testing.T, dir string) (list []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "leases", Name, "10.*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSweepLeavesWhatIsKeptAndNothingElse(t *testing.T) {
	m, bin, dir := alone(t)
	kept, gone, cut, ghost := newPlace(t, "kept"), newPlace(t, "gone"), newPlace(t, "cut"), newPlace(t, "ghost")
	want := m.attach(kept, PortRange{Begin: 31000, End: 31000})
	m.attach(gone, PortRange{Begin: 31001, End: 31001})
	m.attach(cut, PortRange{Begin: 31002, End: 31002})
	m.attach(ghost, PortRange{Begin: 31003, End: 31003})
	kept.answer(31000)

	// As a crash leaves them: one in the middle of ADD, one whose record was lost.
	broken := *m.network.records["cut"]
	broken.Added, broken.Addresses, broken.Veth = false, nil, ""
	if err := m.network.record(broken); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.network.store.recordPath("ghost"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.restart(bin, dir)
	for range 2 {
		m.do("sweep", func() error {
			return m.network.Sweep(context.Background(), func(id string) bool { return id != "gone" })
		})
		if got := leases(t, dir); len(got) != 1 || filepath.Base(got[0]) != want.Addresses[0].String() {
			t.Errorf("leases left: %v", got)
		}
		if got := m.ports(t); got != 1 {
			t.Errorf("%d interfaces on the bridge, want 1", got)
		}
		m.hears("127.0.0.1:31000", "kept", "")
		m.findsShut("127.0.0.1:31001")
	}
	if again := m.attach(kept, PortRange{Begin: 31000, End: 31000}); again.Addresses[0] != want.Addresses[0] {
		t.Errorf("attached again with %v, had %v", again, want)
	}
}

// Tasks that come and go together: nobody's time ends because of the others, and the table
// is not replaced once for each of them.
func TestManyAtOnce(t *testing.T) {
	m, _, dir := alone(t)
	const tasks = 24
	var places []*place
	for i := range tasks {
		places = append(places, newPlace(t, fmt.Sprint("task", i)))
	}
	all := func(f func(i int, p *place) error) (replaced uint64) {
		t.Helper()
		before := m.network.tables
		failed := make(chan error, tasks)
		for i, p := range places {
			m.place.beside(func() error { return f(i, p) }, failed)
		}
		for range tasks {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		return m.network.tables - before
	}
	came := all(func(i int, p *place) error {
		_, err := m.network.Attach(context.Background(), p.name, p.path, []PortRange{{Begin: uint16(31000 + i), End: uint16(31000 + i)}})
		return err
	})
	if got := m.ports(t); got != tasks {
		t.Errorf("%d interfaces on the bridge", got)
	}
	places[7].answer(31007)
	m.hears("127.0.0.1:31007", "task7", "")
	went := all(func(_ int, p *place) error { return m.network.Detach(context.Background(), p.name, p.path) })
	if len(leases(t, dir)) != 0 || m.ports(t) != 0 || len(m.network.records) != 0 {
		t.Errorf("leases %v, %d ports, records %v", leases(t, dir), m.ports(t), m.network.records)
	}
	t.Logf("%d tasks: the table was replaced %d times as they came, %d as they went", tasks, came, went)
	if went >= tasks {
		t.Error("each task had the table replaced for itself")
	}
}

func TestDetachWhenTheNamespaceIsGone(t *testing.T) {
	m, _, dir := alone(t)
	task := newPlace(t, "task")
	m.attach(task, PortRange{Begin: 31000, End: 31000})
	if err := unix.Unmount(task.path, unix.MNT_DETACH); err != nil { // the file stays, empty
		t.Fatal(err)
	}
	for range 2 {
		m.do("detach", func() error { return m.network.Detach(context.Background(), "task", task.path) })
	}
	if got := leases(t, dir); len(got) != 0 {
		t.Errorf("leases left: %v", got)
	}
	if got := m.ports(t); got != 0 {
		t.Errorf("%d interfaces left on the bridge", got)
	}
}

func TestAttachThatFailsLeavesNothing(t *testing.T) {
	m, _, dir := alone(t)
	task := newPlace(t, "task")
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	for name, attempt := range map[string]func(ctx context.Context) error{
		"no namespace": func(ctx context.Context) error {
			_, err := m.network.Attach(ctx, "task", nowhere, []PortRange{{Begin: 31000, End: 31000}})
			return err
		},
		"the node's port": func(ctx context.Context) error {
			_, err := m.network.Attach(ctx, "task", task.path, []PortRange{{Begin: 5052, End: 5052}})
			return err
		},
		"an id that is a path": func(ctx context.Context) error {
			_, err := m.network.Attach(ctx, "../task", task.path, nil)
			return err
		},
	} {
		if err := m.try(func() error { return attempt(context.Background()) }); err == nil {
			t.Errorf("%s: attached", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
		if len(leases(t, dir)) != 0 || m.ports(t) != 0 || len(m.network.records) != 0 {
			t.Errorf("%s: leases %v, %d ports, records %v", name, leases(t, dir), m.ports(t), m.network.records)
		}
	}
}

func TestConfigureAgainAndOtherwise(t *testing.T) {
	m, _, _ := alone(t)
	state := func() (have node) {
		m.do("observe", func() (err error) { have, err = observeNode(); return err })
		return have
	}
	configure := func(s Settings) {
		m.do("configure", func() error { return m.network.Configure(context.Background(), s) })
	}
	if steps := planNode(m.settings, state()); len(steps) != 0 {
		t.Errorf("after Configure there is still to do: %v", steps)
	}
	other := m.settings
	other.Version, other.Subnet, other.MTU = 4, netip.MustParsePrefix("10.88.9.0/24"), 1450
	configure(other)
	if steps := planNode(other, state()); len(steps) != 0 {
		t.Errorf("after another Configure there is still to do: %v", steps)
	}
	configure(m.settings) // older: ignored
	if steps := planNode(other, state()); len(steps) != 0 {
		t.Errorf("older settings were taken: %v", steps)
	}
}
