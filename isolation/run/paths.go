package run

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mesolith/mesolith/internal/wire/keeper"
)

var containerID = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$`)

// checkIDs refuses ids that could not be names of files.
func checkIDs(l *keeper.Launch) error {
	if !containerID.MatchString(l.GetContainerId()) {
		return fmt.Errorf("%w: container id %q; it has 1 to 128 letters, digits and _ . + -", ErrInvalid, l.GetContainerId())
	}
	if l.GetParent() != "" && !containerID.MatchString(l.GetParent()) {
		return fmt.Errorf("%w: id of the pod %q; it has 1 to 128 letters, digits and _ . + -", ErrInvalid, l.GetParent())
	}
	for _, p := range [][2]string{{"agent id", l.GetAgentId()}, {"framework id", l.GetFrameworkId()}, {"executor id", l.GetExecutorId()}, {"task id", l.GetTaskId()}} {
		if p[1] == "" || len(p[1]) > 255 || p[1] == "." || p[1] == ".." || strings.ContainsAny(p[1], "/\x00") {
			return fmt.Errorf("%w: %s %q cannot be the name of a directory", ErrInvalid, p[0], p[1])
		}
	}
	return nil
}

// sandboxPath is Mesos' layout, which tools build by themselves. What is inside a pod has
// its sandbox inside the pod's.
func sandboxPath(workDir string, l *keeper.Launch) string {
	runs := filepath.Join(workDir, "slaves", l.GetAgentId(), "frameworks", l.GetFrameworkId(), "executors", l.GetExecutorId(), "runs")
	switch {
	case l.GetWithin() != "": // beside its parent's, and shown inside of it
		return filepath.Join(runs, l.GetParent()+nestedSuffix, nestedName(l))
	case l.GetNested():
		return filepath.Join(runs, l.GetParent(), "containers", nestedName(l))
	case l.GetParent() != "":
		return filepath.Join(runs, l.GetParent(), "containers", l.GetContainerId())
	}
	return filepath.Join(runs, l.GetContainerId())
}

// paths are the places of one container's things; all of them follow from its id.
type paths struct {
	sandbox string
	pipes   string // directory of its output pipes
	bundle  string // root, upper and work directory of its root file system
	etc     string // hostname, hosts, resolv.conf, passwd: the task may write to them, so they lie where its files lie
}

func (k *Keeper) pathsOf(l *keeper.Launch) paths {
	id := l.GetContainerId()
	bundle := filepath.Join(k.cfg.StoreDir, "containers", id)
	return paths{
		sandbox: sandboxPath(k.cfg.WorkDir, l),
		pipes:   filepath.Join(k.cfg.StateDir, "pipes", id),
		bundle:  bundle,
		etc:     filepath.Join(bundle, "etc"),
	}
}
