package control

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mesolith/mesolith/init/reap"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/pid1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func requests() []*pid1.Request {
	return []*pid1.Request{
		{Id: 1, Body: &pid1.Request_Hello{Hello: &pid1.Hello{Protocol: 1, Program: "isolated"}}},
		{Id: 2, Body: &pid1.Request_Register{Register: &pid1.Register{ContainerId: "c", Pid: 77, StartTime: 1 << 40}}},
		{Id: 3, Body: &pid1.Request_Status{Status: &pid1.Status{ContainerId: "c", StartTime: 9, Wait: true}}},
		{Id: 4, Body: &pid1.Request_Ack{Ack: &pid1.Ack{ContainerId: "c", StartTime: 9}}},
		{Id: 5, Body: &pid1.Request_Services{Services: &pid1.Services{}}},
		{Id: 6, Body: &pid1.Request_Power{Power: &pid1.Power{Action: pid1.Power_POWEROFF, Reason: "because"}}},
	}
}

func TestCodecAgreesWithTheGeneratedTypes(t *testing.T) {
	want := []request{
		{id: 1, body: bodyHello, protocol: 1, program: "isolated"},
		{id: 2, body: bodyRegister, container: "c", pid: 77, startTime: 1 << 40},
		{id: 3, body: bodyStatus, container: "c", startTime: 9, wait: true},
		{id: 4, body: bodyAck, container: "c", startTime: 9},
		{id: 5, body: bodyServices},
		{id: 6, body: bodyPower, powerOff: true, reason: "because"},
	}
	for i, m := range requests() {
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(raw)
		if err != nil || got != want[i] {
			t.Errorf("request %d: %+v, %v", i+1, got, err)
		}
	}
}

// TestConversation talks to the server as isolated and noded do.
func TestConversation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	power := make(chan string, 1)
	server := &Server{
		Reaper:   reap.New(4),
		Services: func() []Service { return []Service{{"noded", "running", 12, 3, "exit status 2", 1700000000000}} },
		Power:    func(off bool, reason string) { power <- reason },
		Warn:     t.Logf,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(fd) }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	want := []*pid1.Response{
		{Id: 1, Body: &pid1.Response_Hello{Hello: &pid1.Hello{Protocol: 1, Program: "init"}}},
		nil, // the pid is nobody's
		{Id: 3, Body: &pid1.Response_Exit{Exit: &pid1.ExitStatus{}}},
		{Id: 4},
		{Id: 5, Body: &pid1.Response_Services{Services: &pid1.ServiceList{Services: []*pid1.Service{{
			Name: "noded", State: "running", Pid: 12, Restarts: 3, LastExit: "exit status 2", SinceUnixMs: 1700000000000,
		}}}}},
		{Id: 6},
	}
	for i, r := range requests() {
		if err := wire.Write(c, r); err != nil {
			t.Fatal(err)
		}
		got := new(pid1.Response)
		if err := wire.Read(c, got, wire.MaxFrame); err != nil {
			t.Fatal(err)
		}
		if want[i] == nil {
			if got.GetError() == "" {
				t.Errorf("request %d was accepted", i+1)
			}
			continue
		}
		if d := cmp.Diff(want[i], got, protocmp.Transform()); d != "" {
			t.Errorf("answer %d:\n%s", i+1, d)
		}
	}
	if r := <-power; r != "because" {
		t.Errorf("reason %q", r)
	}
	c.Close()
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("server ended without saying why")
	}
	unix.Close(fd)
}

func FuzzDecode(f *testing.F) {
	for _, m := range requests() {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := decode(raw); err == nil && (r.body < bodyHello || r.body > bodyPower) {
			t.Errorf("accepted body %d", r.body)
		}
	})
}

// Who calls while there is no descriptor for him waits, and is answered when there is.
func TestCallersWaitForADescriptor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	warned := make(chan string, 16)
	server := &Server{Reaper: reap.New(4), Warn: func(f string, a ...any) { warned <- fmt.Sprintf(f, a...) }}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(fd) }()
	var says string
	select {
	case says = <-warned:
	case err := <-ended:
		ended <- err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if says != "init.sock: callers wait: too many open files" {
		t.Errorf("said %q", says)
	}
	if err := wire.Write(c, requests()[0]); err != nil {
		t.Fatal(err)
	}
	got := new(pid1.Response)
	if err := wire.Read(c, got, wire.MaxFrame); err != nil || got.GetHello() == nil {
		t.Errorf("answered %v, %v", got, err)
	}
	if says := <-warned; says != "init.sock: callers are answered again" || len(warned) > 0 {
		t.Errorf("said %q, and %d lines more", says, len(warned))
	}
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	<-ended
	unix.Close(fd)
}
