//go:build vm

package qemutests

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// seenAs is the address that a visited server saw a visitor come from.
func (f *framework) seenAs(t *testing.T, l client.Launched) string {
	t.Helper()
	wantState(t, l, mesosv1.TaskState_TASK_FINISHED)
	out := f.output(t, l, "stdout")
	_, at, found := strings.Cut(out, "seen as ")
	host, _, err := net.SplitHostPort(strings.TrimSpace(at))
	if !found || err != nil {
		t.Fatalf("task %s printed %q", l.Task.ID, out)
	}
	return host
}

func ownAddress(t *testing.T, l client.Launched) string {
	t.Helper()
	nets := l.Status.GetContainerStatus().GetNetworkInfos()
	if len(nets) != 1 || len(nets[0].GetIpAddresses()) != 1 {
		t.Fatalf("task %s has the networks %v", l.Task.ID, nets)
	}
	return nets[0].GetIpAddresses()[0].GetIpAddress()
}

// A task's port is good on its node's address by TCP and UDP: for tasks of other nodes,
// for its neighbours and for itself. Tasks see each other's own addresses; to whatever is
// no task they come from their node.
func TestNetworkOfTasks(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	here, there := w.Machines()[0].Node.Address.String(), w.Machines()[1].Node.Address.String()
	ln, err := w.LAN.Listen(5003)
	if err != nil {
		t.Fatal(err)
	}
	beyond := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintln(rw, "seen as", r.RemoteAddr) })}
	go func() { _ = beyond.Serve(ln) }()
	t.Cleanup(func() { beyond.Close() })

	server := f.task(t, "server", "serve")
	server.Ports, server.Hostname = 1, here
	running := f.start(t, server)[0]
	mapped := fmt.Sprintf("%s:%d", here, running.Ports[0])
	own := fmt.Sprintf("%s:%d", ownAddress(t, running), running.Ports[0])
	eventually(t, within(t, toRun), func() error { return answersOK(t, w, "http://"+mapped) })

	self := f.task(t, "self", "serve-self", here)
	self.Ports, self.Hostname = 1, here
	tasks := []client.Task{self}
	visit := func(name, on string, verb ...string) {
		task := f.task(t, name, verb...)
		task.Hostname = on
		tasks = append(tasks, task)
	}
	for name, on := range map[string]string{"neighbour": here, "far": there} {
		visit(name+"-mapped", on, "get", "http://"+mapped)
		visit(name+"-own", on, "get", "http://"+own)
		visit(name+"-mapped-udp", on, "udp", mapped)
		visit(name+"-own-udp", on, "udp", own)
	}
	visit("outward", there, "get", fmt.Sprintf("http://%s:5003", w.LAN.Gateway()))
	for _, l := range f.runToEnd(t, tasks...) {
		seen := f.seenAs(t, l)
		switch id := l.Task.ID; {
		case id == "outward" && seen != there:
			t.Errorf("beyond the cluster a task of %s is seen as %s", there, seen)
		case strings.Contains(id, "-own") && seen != ownAddress(t, l):
			t.Errorf("%s has the address %s and is seen as %s", id, ownAddress(t, l), seen)
		case strings.HasPrefix(id, "far-mapped") && seen != there: // a node's address is beyond the pool
			t.Errorf("%s of %s is seen as %s", id, there, seen)
		}
	}
}
