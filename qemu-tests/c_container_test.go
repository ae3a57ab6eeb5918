//go:build vm

package qemutests

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// probed is what the tests' program finds inside a container.
type probed struct {
	PID          int
	UID          int
	Home         string
	UIDMap       []string
	NoNewPrivs   string
	Seccomp      string
	Capabilities int
	Effective    int
	OOMScore     string
	CgroupPath   string
	Group        map[string]string
	Namespaces   map[string]string
	Descriptors  []string
	Interfaces   []string
	OpenFiles    uint64
	Sandbox      string
	Denied       map[string]string
	Allowed      map[string]string
}

func (f *framework) probe(t *testing.T, task client.Task) (probed, client.Launched) {
	t.Helper()
	ended := f.runToEnd(t, task)[0]
	wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
	out := f.output(t, ended, "stdout")
	var p probed
	if err := json.Unmarshal([]byte(lastLine(out)), &p); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return p, ended
}

// initialNamespaces are the numbers that the kernel gives those of PID 1 itself.
var initialNamespaces = map[string]string{
	"ipc": "ipc:[4026531839]", "uts": "uts:[4026531838]", "user": "user:[4026531837]", "pid": "pid:[4026531836]", "cgroup": "cgroup:[4026531835]",
}

// What a container can see and do, found out from inside: the namespaces are its own, the
// escapes' first steps fail, and what programs rightly expect works.
func TestContainerFromInside(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	// The doors that tasks must find shut, at their own node and at the others.
	verb := []string{"probe"}
	for _, m := range w.Machines() {
		for _, port := range []int{5052, cluster.NodePort} {
			verb = append(verb, fmt.Sprintf("%s:%d", m.Node.Address, port))
		}
	}
	p, ended := f.probe(t, f.task(t, "probe", verb...))
	for what, holds := range map[string]bool{
		"it is process 1":                         p.PID == 1,
		"root, as asked for":                      p.UID == 0,
		"65,536 ids of its own":                   len(p.UIDMap) == 3 && p.UIDMap[0] == "0" && p.UIDMap[1] != "0" && p.UIDMap[2] == "65536",
		"no new privileges":                       p.NoNewPrivs == "1",
		"a seccomp filter":                        p.Seccomp == "2",
		"14 capabilities at most":                 p.Capabilities <= 14,
		"a cgroup namespace":                      p.CgroupPath == "0::/",
		"memory limited":                          p.Group["memory.max"] == fmt.Sprint(32<<20) && p.Group["memory.swap.max"] == "0",
		"killed as one when memory is short":      p.Group["memory.oom.group"] == "1",
		"processes limited":                       p.Group["pids.max"] == "1024",
		"a share of the CPU":                      p.Group["cpu.weight"] == "5",
		"killed before the node's programs":       p.OOMScore == "500",
		"no descriptor leaked in":                 len(p.Descriptors) == 0,
		"a loopback and one other interface only": len(p.Interfaces) == 2,
		"a limit of open files":                   p.OpenFiles > 0 && p.OpenFiles <= 1<<20,
		"a sandbox":                               strings.HasPrefix(p.Sandbox, "/"),
	} {
		if !holds {
			t.Errorf("not so: %s", what)
		}
	}
	for name, initial := range initialNamespaces {
		if got := p.Namespaces[name]; got == "" || got == initial {
			t.Errorf("its %s namespace is %q", name, got)
		}
	}
	p.wantTried(t, len(verb)-1)
	// Another container of the same node has other ids, and namespaces of its own again.
	second := f.task(t, "other", "probe")
	second.Hostname = ended.Hostname
	q, _ := f.probe(t, second)
	if len(q.UIDMap) != 3 || q.UIDMap[1] == p.UIDMap[1] {
		t.Errorf("two containers have the ids %v and %v", p.UIDMap, q.UIDMap)
	}
	network := ended.Status.GetContainerStatus().GetNetworkInfos()
	if len(network) != 1 || len(network[0].GetIpAddresses()) != 1 || !strings.HasPrefix(network[0].GetIpAddresses()[0].GetIpAddress(), "10.88.") {
		t.Errorf("its address is told as %v", network)
	}
	if t.Failed() {
		t.Logf("%+v\n%+v", p, q)
	}
}

// wantTried fails the test unless everything forbidden failed and everything else worked.
func (p probed) wantTried(t *testing.T, connections int, but ...string) {
	t.Helper()
	for what, result := range p.Denied {
		if result == "allowed" {
			t.Errorf("the container may %s", what)
		}
	}
	for what, result := range p.Allowed {
		if result != "allowed" && !strings.Contains(strings.Join(but, "|"), what) {
			t.Errorf("the container cannot %s: %s", what, result)
		}
	}
	if len(p.Denied) < 30+connections || len(p.Allowed) < 5 {
		t.Errorf("only %d forbidden and %d allowed things were tried", len(p.Denied), len(p.Allowed))
	}
	fmt.Printf("%d forbidden and %d allowed things tried\n", len(p.Denied), len(p.Allowed))
}

// A task's user may be a name that nobody knows, or a number beyond the usual: it runs as
// that, has no capabilities, and its sandbox is its own.
func TestTaskUsers(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	named := f.task(t, "named", "probe")
	named.Command.User = proto.String("somebody")
	p, _ := f.probe(t, named)
	if p.UID == 0 || p.UID >= 65536 || p.Capabilities != 0 || p.Effective != 0 || p.Home != p.Sandbox {
		t.Errorf("user somebody is %d with %d capabilities, at home in %q", p.UID, p.Capabilities, p.Home)
	}
	p.wantTried(t, 0, "chown to another id", "write /tmp")
	again := f.task(t, "again", "probe")
	again.Command.User = proto.String("somebody")
	if q, _ := f.probe(t, again); q.UID != p.UID {
		t.Errorf("user somebody was %d and is %d", p.UID, q.UID)
	}
	high := f.task(t, "high", "probe")
	high.Command.User = proto.String("100000")
	q, ended := f.probe(t, high)
	if q.UID != 100000 || len(q.UIDMap) != 6 || q.UIDMap[3] != "100000" || q.UIDMap[5] != "1" || q.Capabilities != 0 {
		t.Errorf("user 100000 is %d of %v with %d capabilities", q.UID, q.UIDMap, q.Capabilities)
	}
	passwd := f.task(t, "passwd", "show", "/etc/passwd")
	passwd.Command.User = proto.String("somebody")
	shown := f.runToEnd(t, passwd)[0]
	if got := f.output(t, shown, "stdout"); !strings.Contains(got, fmt.Sprintf("somebody:x:%d:", p.UID)) {
		t.Errorf("the container's passwd is %q", got)
	}
	wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
