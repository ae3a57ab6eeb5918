package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/mesolith/mesolith/internal/stranger"
)

// newZooKeepers is a cluster of processes that answer ZooKeeper's clients, and where.
func newZooKeepers(t *testing.T, n int) (p *processes, servers []string) {
	t.Helper()
	p = newProcesses(t, n)
	servers = p.withZooKeeper()
	for i := range p.running {
		p.start(i)
	}
	return p, servers
}

// withZooKeeper opens the shim of each process that is started from now on.
func (p *processes) withZooKeeper() (servers []string) {
	for range p.running {
		servers = append(servers, fmt.Sprintf("127.0.0.1:%d", freePorts(p.t)))
	}
	p.options = func(i int) []string { return []string{"--zookeeper", servers[i]} }
	return servers
}

// found is a master as clients read it.
type found struct {
	ID, Pid, Hostname, Version string
	IP                         uint32
	Port                       int
	Address                    struct {
		Hostname, IP string
		Port         int
	}
}

// lowest reads the leader as Mesos' detectors do: the lowest of the group's children.
func lowest(c *zk.Conn) (name string, m found, err error) {
	children, _, err := c.Children("/mesos")
	if err != nil {
		return "", m, err
	}
	if len(children) == 0 {
		return "", m, errors.New("the group is empty")
	}
	name = slices.Min(children)
	raw, _, err := c.Get("/mesos/" + name)
	if err != nil {
		return name, m, err
	}
	return name, m, json.Unmarshal(raw, &m)
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func zkClient(t *testing.T, servers ...string) *zk.Conn {
	t.Helper()
	c, _, err := zk.Connect(servers, 10*time.Second, zk.WithLogger(silent{}), zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A client that knows nothing but zk:// finds the leader at every node, hears of the next
// one when that is killed, at whatever node it is then, and changes nothing.
func TestZooKeeperClientsFindTheLeader(t *testing.T) {
	p, servers := newZooKeepers(t, 3)
	all := zkClient(t, servers...)
	var each []*zk.Conn
	for _, s := range servers {
		each = append(each, zkClient(t, s))
	}
	said := func(leader int) func() bool {
		return func() bool {
			for i, c := range each {
				if p.running[i] == nil {
					continue
				}
				_, m, err := lowest(c)
				children, _, err2 := c.Children("/mesos")
				if err != nil || err2 != nil || len(children) != 3 || m.Pid != "master@"+p.api(leader) {
					return false
				}
			}
			return true
		}
	}
	leader := -1
	another := func() bool {
		now, err := p.leads(leader)
		if err != nil || now == leader {
			return false
		}
		leader = now
		return true
	}
	p.eventually("a leader", another)
	p.eventually("the same leader at every node", said(leader))
	first, m, err := lowest(all)
	want := found{ID: m.ID, Pid: "master@" + p.api(leader), Hostname: "127.0.0.1", Version: "1.11.0", IP: 0x0100007f, Port: p.ports[leader]}
	want.Address.Hostname, want.Address.IP, want.Address.Port = "127.0.0.1", "127.0.0.1", p.ports[leader]
	if err != nil || m != want || m.ID == "" {
		t.Errorf("%s is %+v, %v; want %+v", first, m, err, want)
	}
	if _, err := all.Create("/mesos/json.info_", []byte("me"), zk.FlagEphemeral|zk.FlagSequence, zk.WorldACL(zk.PermAll)); !errors.Is(err, zk.ErrNoAuth) {
		t.Errorf("joining the group: %v", err)
	}
	if err := all.Delete("/mesos/"+first, -1); !errors.Is(err, zk.ErrNoAuth) {
		t.Errorf("deleting the leader: %v", err)
	}
	if again, _, err := lowest(all); again != first || err != nil {
		t.Errorf("after that the leader is %s, %v", again, err)
	}

	for round := range 2 {
		// A client may be disconnected when it asks; it asks again, as clients do.
		var watch <-chan zk.Event
		p.eventually("a watch", func() bool { var err error; _, _, watch, err = all.ChildrenW("/mesos"); return err == nil })
		session := all.SessionID()
		killed := leader
		p.kill(killed)
		select {
		case e := <-watch:
			if e.Err != nil {
				t.Errorf("round %d: the watch told %+v", round, e)
			}
		case <-time.After(time.Minute):
			t.Fatalf("round %d: the watch did not fire", round)
		}
		p.eventually("another leader", another)
		p.eventually("the new leader at every node", said(leader))
		p.eventually("the new leader at the client", func() bool { _, m, err := lowest(all); return err == nil && m.Pid == "master@"+p.api(leader) })
		next, _, err := lowest(all)
		if err != nil || next <= first {
			t.Errorf("round %d: the next leader's znode is %s, %v; the one before was %s", round, next, err, first)
		}
		if all.SessionID() != session {
			t.Errorf("round %d: the session is another one", round)
		}
		first = next
		p.start(killed)
		p.eventually("the old one's return", said(leader))
	}
}

// detector prints what mesos-go's own detector makes of zk://: the leader, or a dash.
const detector = `package main

import (
	"fmt"
	"os"

	"github.com/mesos/mesos-go/api/v0/detector"
	_ "github.com/mesos/mesos-go/api/v0/detector/zoo"
	mesos "github.com/mesos/mesos-go/api/v0/mesosproto"
)

type observer struct{}

func (observer) OnMasterChanged(m *mesos.MasterInfo) {
	if m == nil {
		fmt.Println("leader -")
		return
	}
	fmt.Println("leader", m.GetPid(), m.GetHostname(), m.GetPort(), m.GetIp(), m.GetVersion(), m.GetAddress().GetIp())
}

func (observer) UpdatedMasters(all []*mesos.MasterInfo) { fmt.Println("masters", len(all)) }

func main() {
	m, err := detector.New(os.Args[1])
	if err == nil {
		err = m.Detect(observer{})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	<-m.Done()
}
`

// The detector of mesos-go's old API, which others used too (Mesos-DNS is one), reads what
// we say and hears of each change.
func TestMesosGoDetectsTheLeader(t *testing.T) {
	program, err := stranger.BuildMain(t.Context(), t.TempDir(), detector)
	if err != nil {
		t.Fatal(err)
	}
	p, servers := newZooKeepers(t, 3)
	out := &said{}
	cmd := exec.CommandContext(t.Context(), program, "zk://"+strings.Join(servers, ",")+"/mesos")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() })
	leader := -1
	for range 2 {
		p.eventually("a leader", func() bool {
			now, err := p.leads(leader)
			if err != nil || now == leader {
				return false
			}
			leader = now
			return true
		})
		line := fmt.Sprintf("leader master@%s 127.0.0.1 %d 16777343 1.11.0 127.0.0.1\n", p.api(leader), p.ports[leader])
		p.eventually("the leader in the detector: "+line, func() bool {
			at := strings.LastIndex(out.String(), "leader ")
			return at >= 0 && strings.HasPrefix(out.String()[at:], line)
		})
		p.eventually("all masters in the detector", func() bool { return strings.Contains(out.String(), "masters 3\n") })
		p.kill(leader)
	}
	if text := out.String(); strings.Contains(text, "failed to unmarshal") {
		t.Errorf("it could not read something:\n%s", text)
	}
}

// A port that somebody else has for a while is waited for; clusterd goes on meanwhile.
func TestThePortOfZooKeeperIsWaitedFor(t *testing.T) {
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	out := &said{}
	log := slog.New(slog.NewTextHandler(out, nil))
	early, cancel := context.WithCancel(t.Context())
	cancel()
	if l, err := listenZooKeeper(early, port, log); err == nil || l != nil {
		t.Fatal("it listens where somebody else does")
	}
	if text := out.String(); strings.Count(text, "is tried again") != 1 {
		t.Errorf("it said:\n%s", text)
	}
	opened := make(chan error, 1)
	go func() {
		l, err := listenZooKeeper(t.Context(), port, log)
		if err == nil {
			err = l.Close()
		}
		opened <- err
	}()
	taken.Close()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
