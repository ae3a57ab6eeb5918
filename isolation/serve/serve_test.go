package serve

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/run"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "hold" {
		run.Hold()
	}
	os.Exit(m.Run())
}

func serving(t *testing.T, uids []uint32) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	k, err := run.New(run.Config{
		StateDir: filepath.Join(dir, "state"), WorkDir: filepath.Join(dir, "work"), StoreDir: filepath.Join(dir, "store"), Self: self, Log: log,
		Runtime: run.Processes{Self: self, Store: imagestore.Store{Dir: filepath.Join(dir, "store")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := k.Start(ctx); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- (&Server{Keeper: k, Reason: "a test", UIDs: uids, Log: log}).Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		k.Wait()
	})
	return socket
}

type peer struct {
	t    *testing.T
	conn *net.UnixConn
}

func dial(t *testing.T, socket string) *peer {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t, c.(*net.UnixConn)}
}

func (p *peer) send(r *keeper.Request) {
	p.t.Helper()
	if err := wire.Write(p.conn, r); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) read() *keeper.Response {
	p.t.Helper()
	r := &keeper.Response{}
	if err := wire.Read(p.conn, r, wire.MaxFrame); err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p *peer) hello() {
	p.t.Helper()
	p.send(&keeper.Request{Id: 1, Body: &keeper.Request_Hello{Hello: &keeper.Hello{Protocol: 1}}})
	if h := p.read().GetHello(); h.GetRuntime() != "processes" || h.GetRuntimeReason() != "a test" {
		p.t.Fatalf("hello %v", h)
	}
}

func TestConversation(t *testing.T) {
	socket := serving(t, nil)
	p, other := dial(t, socket), dial(t, socket)
	p.hello()
	other.hello()
	info, err := proto.Marshal(&mesosv1.TaskInfo{
		Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, AgentId: &mesosv1.AgentID{Value: proto.String("S0")},
		Command: &mesosv1.CommandInfo{Value: proto.String("echo hello")},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.send(&keeper.Request{Id: 2, Body: &keeper.Request_Launch{Launch: &keeper.Launch{ContainerId: "c", AgentId: "S0", FrameworkId: "F", ExecutorId: "t", TaskId: "t", TaskInfo: info}}})
	var last *keeper.Container
	for seq := uint64(0); last.GetPhase() != keeper.Container_ENDED; {
		e := other.read().GetEvent()
		if e.GetContainerId() != "c" || e.GetSequence() <= seq {
			t.Fatalf("event %v after number %d", e, seq)
		}
		last, seq = e, e.GetSequence()
	}
	p.send(&keeper.Request{Id: 9, Body: &keeper.Request_List{List: &keeper.List{}}})
	for {
		if r := p.read(); r.GetId() == 9 {
			if len(r.GetList().GetContainers()) != 1 {
				t.Errorf("list %v", r)
			}
			break
		}
	}
	if got := fileOf(t, socket, last.GetSandbox()+"/stdout"); got != "hello\n" {
		t.Errorf("stdout %q", got)
	}
}

// fileOf asks for a file on a connection of its own and reads the descriptor it gets.
func fileOf(t *testing.T, socket, path string) string {
	t.Helper()
	p := dial(t, socket)
	p.hello()
	p.send(&keeper.Request{Id: 2, Body: &keeper.Request_OpenFile{OpenFile: &keeper.OpenFile{Path: path}}})
	first, oob := make([]byte, 1), make([]byte, 64)
	n, oobn, _, _, err := p.conn.ReadMsgUnix(first, oob)
	if err != nil || n != 1 || oobn == 0 {
		t.Fatalf("%d bytes, %d of control data, %v", n, oobn, err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), path)
	defer f.Close()
	r := &keeper.Response{}
	if err := wire.Read(io.MultiReader(strings.NewReader(string(first)), p.conn), r, wire.MaxFrame); err != nil || r.GetFile().GetSize() == 0 {
		t.Fatalf("answer %v, %v", r, err)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestRefusals(t *testing.T) {
	socket := serving(t, nil)
	p := dial(t, socket)
	p.send(&keeper.Request{Id: 1, Body: &keeper.Request_List{List: &keeper.List{}}})
	if e := p.read().GetError(); e.GetCode() != keeper.Error_INVALID {
		t.Errorf("no hello: %v", e)
	}
	p = dial(t, socket)
	p.send(&keeper.Request{Id: 1, Body: &keeper.Request_Hello{Hello: &keeper.Hello{Protocol: 99}}})
	if e := p.read().GetError(); e.GetCode() != keeper.Error_INVALID {
		t.Errorf("protocol 99: %v", e)
	}
	p = dial(t, socket)
	p.hello()
	for id, c := range map[uint64]struct {
		r    *keeper.Request
		want keeper.Error_Code
	}{
		3: {&keeper.Request{Body: &keeper.Request_Launch{Launch: &keeper.Launch{ContainerId: "../x"}}}, keeper.Error_INVALID},
		4: {&keeper.Request{Body: &keeper.Request_OpenFile{OpenFile: &keeper.OpenFile{Path: "/etc/passwd"}}}, keeper.Error_NOT_FOUND},
		5: {&keeper.Request{}, keeper.Error_INVALID},
	} {
		c.r.Id = id
		p.send(c.r)
		if r := p.read(); r.GetId() != id || r.GetError().GetCode() != c.want || r.GetError().GetMessage() == "" {
			t.Errorf("request %d: %v", id, r)
		}
	}
	if _, err := Listen(socket); err == nil || !strings.Contains(err.Error(), "another isolated") {
		t.Errorf("second keeper: %v", err)
	}
}
