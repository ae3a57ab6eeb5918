// Package memory says what the machine's memory goes to: how many processes each of the
// system's programs has and what they hold, and the same of all tasks together.
//
// A process belongs to whoever's control group it is in: init, noded, clusterd and
// isolated have one each, pulls of images are the store's, tasks are below /tasks. What
// is held is the proportional share (PSS): a page that n processes map counts for 1/n in
// each, so that sums are true. The kernel's own memory belongs to no process and is not
// in it.
//
// Invariant: it only reads. A process that ends while it is looked at is left out; one
// that may not be looked at is an error, because a sum without it would be a lie.
package memory

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Tasks is the name of the group of all containers' processes.
const Tasks = "tasks"

// Group is what the processes of one program hold, in bytes.
type Group struct {
	Name      string
	Processes int
	PSS       uint64
	Anonymous uint64 // the part of PSS that no file is behind
	Resident  uint64 // with every shared page counted in full

	Kept     uint64 // of its control group, that no pressure takes: memory.min, no more than the groups above keep
	Max      uint64 // that its control group may have; 0: no limit of its own
	OOMKills uint64 // processes of the group, and of those below, that the kernel has ended
	// Scores are oom_score_adj of its processes, lowest and highest: who has the higher
	// one is ended first when the whole machine is short.
	LowestScore, HighestScore int
}

// Machine is the memory of the whole machine, in bytes.
type Machine struct {
	Total, Available uint64
	Groups           []Group // by name
}

// Observe reads /proc below root.
func Observe(root string) (Machine, error) {
	m, err := machine(root)
	if err != nil {
		return m, fmt.Errorf("read memory: %w", err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "proc"))
	if err != nil {
		return m, fmt.Errorf("read memory: %w", err)
	}
	groups := map[string]*Group{}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		err := add(groups, filepath.Join(root, "proc", e.Name()))
		// Gone meanwhile, or without memory of its own: a thread of the kernel's.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return m, fmt.Errorf("read memory of process %s: %w", e.Name(), err)
		}
	}
	for _, g := range groups {
		if err := g.limits(filepath.Join(root, "sys/fs/cgroup")); err != nil {
			return m, fmt.Errorf("read limits of %s: %w", g.Name, err)
		}
		m.Groups = append(m.Groups, *g)
	}
	slices.SortFunc(m.Groups, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	return m, nil
}

func machine(root string) (Machine, error) {
	fields, err := fieldsOf(filepath.Join(root, "proc/meminfo"))
	return Machine{Total: fields["MemTotal"], Available: fields["MemAvailable"]}, err
}

func add(groups map[string]*Group, dir string) error {
	fields, err := fieldsOf(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return err
	}
	group, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "oom_score_adj"))
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return err
	}
	name := nameOf(string(group))
	g := groups[name]
	if g == nil {
		g = &Group{Name: name, LowestScore: score, HighestScore: score}
		groups[name] = g
	}
	g.LowestScore, g.HighestScore = min(g.LowestScore, score), max(g.HighestScore, score)
	g.Processes++
	g.PSS += fields["Pss"]
	g.Anonymous += fields["Pss_Anon"]
	g.Resident += fields["Rss"]
	return nil
}

// limits reads what the control group of the program's name keeps and may have.
func (g *Group) limits(root string) error {
	path := g.Name
	if _, err := os.Stat(filepath.Join(root, "system", g.Name)); err == nil {
		path = filepath.Join("system", g.Name)
	}
	numbers := map[string]uint64{}
	for _, file := range []string{path + "/memory.min", filepath.Dir(path) + "/memory.min", path + "/memory.max"} {
		raw, err := os.ReadFile(filepath.Join(root, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the root has no limits, and "none" is no group
		}
		if err != nil {
			return err
		}
		if text := strings.TrimSpace(string(raw)); text != "max" {
			if numbers[file], err = strconv.ParseUint(text, 10, 64); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	g.Kept, g.Max = numbers[path+"/memory.min"], numbers[path+"/memory.max"]
	if above := filepath.Dir(path); above != "." {
		g.Kept = min(g.Kept, numbers[above+"/memory.min"])
	}
	raw, err := os.ReadFile(filepath.Join(root, path, "memory.events"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			if g.OOMKills, err = strconv.ParseUint(n, 10, 64); err != nil {
				return fmt.Errorf("memory.events: %w", err)
			}
		}
	}
	return nil
}

// nameOf finds whose a control group is, such as 0::/system/noded.
func nameOf(group string) string {
	path := strings.TrimPrefix(strings.TrimSpace(group), "0::/")
	path = strings.TrimPrefix(path, "system/")
	name, _, _ := strings.Cut(path, "/")
	if name == "" {
		return "none"
	}
	return name
}

// fieldsOf reads lines such as "Pss:  12 kB"; values are bytes.
func fieldsOf(file string) (map[string]uint64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		name, rest, ok := strings.Cut(s.Text(), ":")
		words := strings.Fields(rest)
		if !ok || len(words) != 2 || words[1] != "kB" {
			continue
		}
		n, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", file, s.Text(), err)
		}
		out[name] = n << 10
	}
	return out, nil
}
