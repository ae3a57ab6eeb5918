//go:build vm

package qemutests

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/stranger"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// Three machines without any disk boot, find each other, elect one leader and pool what
// they have.
func TestThreeMachinesBootAndElect(t *testing.T) {
	began := time.Now()
	w := three(t)
	leader, err := w.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	agents, err := w.Agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) != 3 {
		t.Errorf("%d agents, want 3: %v", len(agents), agents)
	}
	fmt.Printf("ready after %.1f s, %.1f boots of the bare kernel; %s leads\n",
		time.Since(began).Seconds(), time.Since(began).Seconds()/theLab.boot.Seconds(), leader.Name)
	// Every node gives the same answer, whoever it is asked of.
	for _, m := range w.Machines() {
		eventually(t, within(t, toRun), func() error {
			health, err := w.nodeAPI(m.Node).Health(t.Context())
			if err != nil {
				return err
			}
			_ = health
			return nil
		})
	}
}

// A framework that nobody here wrote: msh of mesos-go, built from the module proxy, runs
// a command on the cluster. It speaks protobuf over plain HTTP.
func TestStrangersFrameworkRunsACommand(t *testing.T) {
	w := three(t)
	msh, err := stranger.Build(t.Context(), t.TempDir(), "msh")
	if err != nil {
		t.Fatal(err)
	}
	var masters []string
	for _, m := range w.Machines() {
		masters = append(masters, fmt.Sprintf("%s:%d", m.Node.Address, cluster.APIPort))
	}
	at, err := w.LAN.Forward("127.0.0.1:0", masters...)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"echo", "hello"}, {"ls", "/"}} {
		args := append([]string{"-master", at, "-task_name", command[0], "--"}, command...)
		out, err := exec.CommandContext(within(t, toRun), msh, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("msh %v: %v\n%s", command, err, out)
		}
		if !strings.Contains(string(out), "TASK_FINISHED") {
			t.Errorf("msh %v did not see TASK_FINISHED:\n%s", command, out)
		}
	}
}

// Our own client does the same in both encodings, and what a task prints and how it ends
// arrive as they were.
func TestOwnFrameworkInBothEncodings(t *testing.T) {
	w := three(t)
	for _, protobuf := range []bool{false, true} {
		t.Run(fmt.Sprintf("protobuf=%t", protobuf), func(t *testing.T) {
			f := w.framework(t, protobuf)
			shell := client.Task{ID: "shell", CPUs: 0.05, MemMB: 32, Command: &mesosv1.CommandInfo{Value: proto.String("test -s /etc/ssl/cert.pem && echo from base; exit 3")}}
			ended := f.runToEnd(t, f.task(t, "say", "say", "hello from a container"), f.task(t, "exit", "exit", "7"), shell)
			wantState(t, ended[0], mesosv1.TaskState_TASK_FINISHED)
			wantState(t, ended[1], mesosv1.TaskState_TASK_FAILED)
			wantState(t, ended[2], mesosv1.TaskState_TASK_FAILED)
			if got := f.output(t, ended[0], "stdout"); !strings.Contains(got, "hello from a container\n") {
				t.Errorf("stdout is %q", got)
			}
			if got := f.output(t, ended[2], "stdout"); !strings.Contains(got, "from base\n") {
				t.Errorf("stdout is %q", got)
			}
		})
	}
}

// A task's port is good on its agent's address for everybody on the LAN, its own address
// in the whole cluster.
func TestTasksAreReachable(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	server := f.task(t, "server", "serve")
	server.Ports = 1
	running := f.start(t, server)[0]
	mapped := fmt.Sprintf("http://%s:%d/", running.Hostname, running.Ports[0])
	eventually(t, within(t, toRun), func() error { return answersOK(t, w, mapped) })

	nets := running.Status.GetContainerStatus().GetNetworkInfos()
	if len(nets) == 0 || len(nets[0].GetIpAddresses()) == 0 {
		t.Fatalf("no address of its own in %v", running.Status)
	}
	own := fmt.Sprintf("http://%s:%d/", nets[0].GetIpAddresses()[0].GetIpAddress(), running.Ports[0])
	var asking []client.Task
	for _, m := range w.Machines() {
		visitor := f.task(t, "visitor-"+m.Node.Name, "get", own)
		visitor.Hostname = m.Node.Address.String()
		asking = append(asking, visitor)
	}
	for _, ended := range f.runToEnd(t, asking...) {
		wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
	}
}

func answersOK(t *testing.T, w *world, url string) error {
	t.Helper()
	resp, err := w.Client().Get(url)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}
