//go:build vm

package qemutests

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// What a container can see and do, found out from inside: the namespaces are its own, the
// escapes' first steps fail, and what programs rightly expect works.
func TestContainerFromInside(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	ended := f.runToEnd(t, f.task(t, "probe", "probe"))[0]
	out := f.output(t, ended, "stdout")
	wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
	var p struct {
		PID          int
		UIDMap       []string
		NoNewPrivs   string
		Seccomp      string
		Capabilities int
		CgroupPath   string
		Descriptors  []string
		Interfaces   []string
		OpenFiles    uint64
		Sandbox      string
		Denied       map[string]string
		Allowed      map[string]string
	}
	if err := json.Unmarshal([]byte(lastLine(out)), &p); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for what, holds := range map[string]bool{
		"it is process 1":                         p.PID == 1,
		"65,536 ids of its own":                   len(p.UIDMap) == 3 && p.UIDMap[0] == "0" && p.UIDMap[1] != "0" && p.UIDMap[2] == "65536",
		"no new privileges":                       p.NoNewPrivs == "1",
		"a seccomp filter":                        p.Seccomp == "2",
		"14 capabilities at most":                 p.Capabilities <= 14,
		"a cgroup namespace":                      p.CgroupPath == "0::/",
		"no descriptor leaked in":                 len(p.Descriptors) == 0,
		"a loopback and one other interface only": len(p.Interfaces) == 2,
		"a limit of open files":                   p.OpenFiles > 0 && p.OpenFiles <= 1<<20,
		"a sandbox":                               strings.HasPrefix(p.Sandbox, "/"),
	} {
		if !holds {
			t.Errorf("not so: %s", what)
		}
	}
	for what, result := range p.Denied {
		if result == "allowed" {
			t.Errorf("the container may %s", what)
		}
	}
	for what, result := range p.Allowed {
		if result != "allowed" {
			t.Errorf("the container cannot %s: %s", what, result)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	fmt.Printf("%d forbidden and %d allowed things tried\n", len(p.Denied), len(p.Allowed))
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
