//go:build faults

package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Point is a place between two effects.
type Point string

// plan is which containers are to strike where; there is one program, so there is one.
var plan struct {
	sync.Mutex
	dir   string
	tasks map[string][]string
}

// MarkIn names the directory that remembers which points have struck.
func MarkIn(dir string) {
	plan.Lock()
	defer plan.Unlock()
	plan.dir = dir
}

// Of tells whose container it is: the task's id names the points.
func Of(container, task string) {
	points, ok := strings.CutPrefix(task, Sign)
	if !ok {
		return
	}
	plan.Lock()
	defer plan.Unlock()
	if plan.tasks == nil {
		plan.tasks = map[string][]string{}
	}
	plan.tasks[container] = strings.Split(points, ".")
}

// After ends this program by SIGKILL if the container's task names p and p has not
// struck before.
func After(p Point, container string) {
	plan.Lock()
	defer plan.Unlock()
	if !slices.Contains(plan.tasks[container], string(p)) {
		return
	}
	mark := filepath.Join(plan.dir, "fault."+container+"."+string(p))
	f, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	f.Close()
	fmt.Fprintf(os.Stderr, "fault: dies after %s of %s\n", p, container)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
