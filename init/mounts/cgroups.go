package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
)

// Groups says what memory the control groups keep and may take, in bytes.
type Groups struct {
	InitMin, NodedMin, ClusterdMin, IsolatedMin uint64
	StoreMax, TasksMax, TasksMaxPids            uint64
}

const controllers = "+cpu +memory +pids +io"

type setting struct{ group, file, value string }

// Cgroups makes the tree of control groups, with its controllers on down to the groups
// of tasks, and moves PID 1 into its own.
func Cgroups(g Groups) error {
	for _, dir := range []string{"/init", "/system", "/system/noded", "/system/clusterd", "/system/isolated", "/store", "/tasks"} {
		if err := os.Mkdir(CgroupDir+dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make control group %s: %w", dir, err)
		}
	}
	if err := apply([]setting{{"/init", "cgroup.procs", "1"}}); err != nil {
		return err
	}
	var errs []error
	for _, group := range []string{"", "/system", "/tasks"} {
		errs = append(errs, apply([]setting{{group, "cgroup.subtree_control", controllers}}))
	}
	errs = append(errs, Limits(g))
	return errors.Join(errs...)
}

// Limits writes what the groups keep and may take. memory.min holds only as far as every
// group above has it too.
func Limits(g Groups) error {
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	return apply([]setting{
		{"/init", "memory.min", n(g.InitMin)},
		{"/init", "cpu.weight", "1000"},
		{"/system", "memory.min", n(g.NodedMin + g.ClusterdMin + g.IsolatedMin)},
		{"/system", "cpu.weight", "1000"},
		{"/system/noded", "memory.min", n(g.NodedMin)},
		{"/system/clusterd", "memory.min", n(g.ClusterdMin)},
		{"/system/isolated", "memory.min", n(g.IsolatedMin)},
		{"/store", "memory.max", n(g.StoreMax)},
		{"/store", "cpu.weight", "50"},
		{"/tasks", "memory.max", n(g.TasksMax)},
		{"/tasks", "pids.max", n(g.TasksMaxPids)},
		{"/tasks", "cpu.weight", "20"},
	})
}

func apply(list []setting) error {
	var errs []error
	for _, s := range list {
		path := CgroupDir + s.group + "/" + s.file
		if err := os.WriteFile(path, []byte(s.value), 0); err != nil {
			errs = append(errs, fmt.Errorf("write %s to control group: %w", s.value, err))
		}
	}
	return errors.Join(errs...)
}
