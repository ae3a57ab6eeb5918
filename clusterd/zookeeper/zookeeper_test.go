package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
)

// quiet is a logger of the client's.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

// view is the leader of a term, of three masters, as each node of one cluster tells it.
func view(term uint64, leader int) View {
	v := View{Generation: "g1", Height: 1, Term: term}
	for i := range 3 {
		info := fmt.Appendf(nil, `{"id":"m%d"}`, i)
		if i == leader {
			v.Leader, info = info, nil
		}
		v.Others = append(v.Others, info)
	}
	return v
}

// serve opens a server until the test ends.
func serve(t *testing.T, limits Limits) (*Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Path: "/mesos", Limits: limits, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if s.open != 0 || len(s.from) != 0 || s.watches.Load() != 0 {
			t.Errorf("left behind: %d connections, %v, %d watches", s.open, s.from, s.watches.Load())
		}
	})
	return s, l.Addr().String()
}

func dial(t *testing.T, servers ...string) (*zk.Conn, <-chan zk.Event) {
	t.Helper()
	c, events, err := zk.Connect(servers, 10*time.Second, zk.WithLogger(quiet{}), zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, events
}

// state waits until a client's session is in a state.
func state(t *testing.T, events <-chan zk.Event, want zk.State) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case e := <-events:
			if e.State == want {
				return
			}
		case <-late:
			t.Fatalf("the client's session never was %s", want)
		}
	}
}

// next waits for what a watch tells.
func next(t *testing.T, w <-chan zk.Event) zk.Event {
	t.Helper()
	select {
	case e := <-w:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("a watch did not fire")
		return zk.Event{}
	}
}

// leader reads who leads as Mesos' own detectors do: the lowest of the children.
func leader(c *zk.Conn) (string, error) {
	children, _, err := c.Children("/mesos")
	if err != nil || len(children) == 0 {
		return "", err
	}
	raw, _, err := c.Get("/mesos/" + slices.Min(children))
	return string(raw), err
}

func TestTheLowestNumberIsTheLeaders(t *testing.T) {
	s, at := serve(t, Limits{})
	s.Post(view(7, 1))
	c, _ := dial(t, at)
	if got, err := leader(c); got != `{"id":"m1"}` {
		t.Errorf("the leader is %q, %v", got, err)
	}
	children, stat, err := c.Children("/mesos")
	if err != nil || len(children) != 3 || stat.NumChildren != 3 {
		t.Errorf("children %q, %+v, %v", children, stat, err)
	}
	for _, name := range children {
		raw, st, err := c.Get("/mesos/" + name)
		if err != nil || len(name) != len("json.info_0123456789") || st.DataLength != int32(len(raw)) || st.EphemeralOwner == 0 || st.Version != 0 || st.Czxid == 0 {
			t.Errorf("%s: %q, %+v, %v", name, raw, st, err)
		}
	}
	if roots, _, err := c.Children("/"); err != nil || !slices.Equal(roots, []string{"mesos"}) {
		t.Errorf("children of the root: %q, %v", roots, err)
	}
	if there, _, err := c.Exists("/mesos/log_replicas"); err != nil || there {
		t.Errorf("what is not there: %v, %v", there, err)
	}
	if _, _, err := c.Get("/mesos/none"); !errors.Is(err, zk.ErrNoNode) {
		t.Errorf("reading what is not there: %v", err)
	}
	acl, _, err := c.GetACL("/mesos")
	if err != nil || len(acl) != 1 || acl[0] != (zk.ACL{Perms: zk.PermRead, Scheme: "world", ID: "anyone"}) {
		t.Errorf("who may do what: %v, %v", acl, err)
	}
	if p, err := c.Sync("/mesos"); err != nil || p != "/mesos" {
		t.Errorf("sync: %q, %v", p, err)
	}
}

func TestNothingCanBeWritten(t *testing.T) {
	s, at := serve(t, Limits{})
	s.Post(view(7, 1))
	before, _ := s.read()
	c, _ := dial(t, at)
	if err := c.AddAuth("digest", []byte("user:password")); err != nil {
		t.Errorf("credentials: %v", err)
	}
	children, _, err := c.Children("/mesos")
	if err != nil {
		t.Fatal(err)
	}
	first := "/mesos/" + children[0]
	world := zk.WorldACL(zk.PermAll)
	for _, test := range []struct {
		what string
		do   func() error
		want error
	}{
		// libmesos and kazoo make sure that the group exists, and go on when it does.
		{"create the group", func() error { _, err := c.Create("/mesos", nil, 0, world); return err }, zk.ErrNodeExists},
		{"create a member", func() error {
			_, err := c.Create("/mesos/json.info_", []byte("x"), zk.FlagEphemeral|zk.FlagSequence, world)
			return err
		}, zk.ErrNoAuth},
		{"create elsewhere", func() error { _, err := c.Create("/marathon", nil, 0, world); return err }, zk.ErrNoAuth},
		{"create a container", func() error { _, err := c.CreateContainer("/c", nil, zk.FlagContainer, world); return err }, zk.ErrNoAuth},
		{"create with an end", func() error { _, err := c.CreateTTL("/c", nil, zk.FlagTTL, world, time.Hour); return err }, zk.ErrNoAuth},
		{"set", func() error { _, err := c.Set(first, []byte("x"), -1); return err }, zk.ErrNoAuth},
		{"set what is not there", func() error { _, err := c.Set("/none", nil, -1); return err }, zk.ErrNoNode},
		{"delete", func() error { return c.Delete(first, -1) }, zk.ErrNoAuth},
		{"delete what is not there", func() error { return c.Delete("/none", -1) }, zk.ErrNoNode},
		{"set who may", func() error { _, err := c.SetACL("/mesos", world, -1); return err }, zk.ErrNoAuth},
		{"several at once", func() error {
			_, err := c.Multi(&zk.CreateRequest{Path: "/x", Acl: world}, &zk.DeleteRequest{Path: first})
			return err
		}, zk.ErrNoAuth},
		{"reconfigure", func() error { _, err := c.Reconfig([]string{"server.4=x:1:1"}, -1); return err }, zk.ErrNoAuth},
	} {
		if err := test.do(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
	}
	if after, _ := s.read(); after != before {
		t.Error("something changed")
	}
	if got, err := leader(c); got != `{"id":"m1"}` {
		t.Errorf("the leader is %q, %v", got, err)
	}
}

func TestWatchesFireWhenTheLeaderChanges(t *testing.T) {
	s, at := serve(t, Limits{})
	s.Post(view(7, 1))
	c, events := dial(t, at)
	state(t, events, zk.StateHasSession)
	children, _, group, err := c.ChildrenW("/mesos")
	if err != nil {
		t.Fatal(err)
	}
	old := "/mesos/" + slices.Min(children)
	_, _, data, err := c.GetW(old)
	if err != nil {
		t.Fatal(err)
	}
	_, _, exists, err := c.ExistsW(old)
	if err != nil {
		t.Fatal(err)
	}
	coming := fmt.Sprintf("/mesos/json.info_%010d", base(1, 8))
	there, _, created, err := c.ExistsW(coming)
	if err != nil || there {
		t.Fatal(there, err)
	}
	_, _, root, err := c.ChildrenW("/")
	if err != nil {
		t.Fatal(err)
	}
	s.Post(view(7, 1)) // nothing new
	s.Post(view(8, 2))
	for _, w := range []struct {
		what string
		ch   <-chan zk.Event
		want zk.Event
	}{
		{"group", group, zk.Event{Type: zk.EventNodeChildrenChanged, Path: "/mesos"}},
		{"data", data, zk.Event{Type: zk.EventNodeDeleted, Path: old}},
		{"exists", exists, zk.Event{Type: zk.EventNodeDeleted, Path: old}},
		{"created", created, zk.Event{Type: zk.EventNodeCreated, Path: coming}},
	} {
		if e := next(t, w.ch); e.Type != w.want.Type || e.Path != w.want.Path || e.Err != nil {
			t.Errorf("%s: %+v", w.what, e)
		}
	}
	if got, err := leader(c); got != `{"id":"m2"}` {
		t.Errorf("the leader is %q, %v", got, err)
	}
	// A leader that is lost leaves an empty group, not one whose lowest member does not lead.
	_, _, group, err = c.ChildrenW("/mesos")
	if err != nil {
		t.Fatal(err)
	}
	lost := view(8, 2)
	lost.Leader = nil
	s.Post(lost)
	next(t, group)
	if got, err := leader(c); got != "" || err != nil {
		t.Errorf("the leader is %q, %v", got, err)
	}
	// Nor does a node that heard of an old term say that its leader leads.
	s.Post(view(7, 1))
	if got, err := leader(c); got != "" || err != nil {
		t.Errorf("the leader is %q, %v", got, err)
	}
	select {
	case e := <-root:
		t.Errorf("the root's children changed: %+v", e)
	default:
	}
}

// A client goes on at another node with its session, and misses no change on the way.
func TestASessionGoesOnAtAnotherNode(t *testing.T) {
	s1, at1 := serve(t, Limits{CatchUp: 100 * time.Millisecond})
	s2, at2 := serve(t, Limits{CatchUp: 100 * time.Millisecond})
	s1.Post(view(7, 0))
	s2.Post(view(6, 2)) // has not heard yet
	link := newLink(t, at1)
	c, events, err := zk.Connect([]string{link.at}, 10*time.Second, zk.WithLogger(quiet{}), zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	state(t, events, zk.StateHasSession)
	session := c.SessionID()
	_, _, group, err := c.ChildrenW("/mesos")
	if err != nil {
		t.Fatal(err)
	}
	link.to(at2)
	// The second node knows less than the client: it does not answer it.
	state(t, events, zk.StateDisconnected)
	state(t, events, zk.StateConnected)
	state(t, events, zk.StateDisconnected)
	s2.Post(view(8, 1))
	state(t, events, zk.StateHasSession)
	if e := next(t, group); e.Type != zk.EventNodeChildrenChanged || e.Err != nil {
		t.Errorf("the watch told %+v", e)
	}
	if got, err := leader(c); got != `{"id":"m1"}` || c.SessionID() != session {
		t.Errorf("the leader is %q, %v; session %x, before %x", got, err, c.SessionID(), session)
	}
}

// After a new birth numbers may come again, for other masters: sessions end.
func TestANewBirthEndsSessions(t *testing.T) {
	s, at := serve(t, Limits{})
	s.Post(view(7, 0))
	c, events := dial(t, at)
	state(t, events, zk.StateHasSession)
	_, _, group, err := c.ChildrenW("/mesos")
	if err != nil {
		t.Fatal(err)
	}
	born := view(7, 1)
	born.Generation = "g2"
	s.Post(born)
	if e := next(t, group); !errors.Is(e.Err, zk.ErrSessionExpired) {
		t.Errorf("the watch told %+v", e)
	}
	state(t, events, zk.StateHasSession)
	if got, err := leader(c); got != `{"id":"m1"}` {
		t.Errorf("the leader is %q, %v", got, err)
	}
}

func TestWhoKnowsNothingServesNobody(t *testing.T) {
	s, at := serve(t, Limits{})
	s.Post(View{Height: 1, Term: 3})
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(helloFrame(10_000, 0)); err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(c); len(raw) > 0 {
		t.Errorf("it was answered %x, %v", raw, err)
	}
}

func TestManyClientsHearOfEveryLeader(t *testing.T) {
	const clients = 100
	s, at := serve(t, Limits{})
	s.Post(view(1, 0))
	var wg sync.WaitGroup
	ready := make(chan struct{}, clients)
	for range clients {
		c, _ := dial(t, at)
		wg.Go(func() {
			said := false
			for {
				children, _, group, err := c.ChildrenW("/mesos")
				if err != nil {
					t.Error(err)
					return
				}
				if !said {
					said = true
					ready <- struct{}{}
				}
				if slices.Contains(children, fmt.Sprintf("json.info_%010d", base(1, 20))) {
					return
				}
				select {
				case <-group:
				case <-time.After(20 * time.Second):
					t.Error("a client heard nothing of the last leader")
					return
				}
			}
		})
	}
	for range clients {
		<-ready
	}
	for term := uint64(2); term <= 20; term++ {
		s.Post(view(term, int(term%3)))
	}
	wg.Wait()
}

func TestWordsOfFourLetters(t *testing.T) {
	s, at := serve(t, Limits{})
	ask := func(word string) string {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, word); err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if got := ask("srvr\n"); !strings.Contains(got, "not currently serving") {
		t.Errorf("srvr before anything is known: %q", got)
	}
	s.Post(view(7, 1))
	if ok := zk.FLWRuok([]string{at}, 10*time.Second); !ok[0] {
		t.Error("ruok is not answered")
	}
	leads := view(8, 1)
	leads.Leads = true
	for _, test := range []struct {
		view View
		mode zk.Mode
	}{{view(7, 1), zk.ModeFollower}, {leads, zk.ModeLeader}} {
		s.Post(test.view)
		if all, ok := zk.FLWSrvr([]string{at}, 10*time.Second); !ok || all[0].Mode != test.mode || all[0].NodeCount != 5 || all[0].Epoch != base(1, test.view.Term) {
			t.Errorf("srvr: %v %+v", ok, all[0])
		}
	}
	for word, want := range map[string]string{
		"ruok": "imok", "stat": "Mode: leader", "mntr": "zk_znode_count\t5\n", "envi": "zookeeper.version=3.4.14", "dump": "dump is not executed", "wchc\n": "whitelist",
	} {
		if got := ask(word); !strings.Contains(got, want) {
			t.Errorf("%q: %q", word, got)
		}
	}
}
