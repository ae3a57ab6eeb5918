//go:build faults

package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/mesolith/mesolith/isolation/cgroup"
	"github.com/mesolith/mesolith/net/cni"
	"github.com/mesolith/mesolith/net/firewall"
)

// inventory writes down, at each SIGUSR1, everything of containers that is on this
// machine: what a test compares with nothing. Each list is read where the kernel or the
// disk keeps it, not where this program remembers it.
func inventory(ctx context.Context, f flags, log *slog.Logger) {
	asked := make(chan os.Signal, 16)
	signal.Notify(asked, syscall.SIGUSR1)
	log.Info("inventory can be asked for", "pid", os.Getpid()) // before, the signal would end this program
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-asked:
			}
			var args []any
			for _, l := range lists(f) {
				found, err := l.read()
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					found = append(found, "cannot be read: "+err.Error())
				}
				if len(found) > 0 {
					args = append(args, l.name, found)
				}
			}
			log.Info("inventory", slog.Group("found", args...))
		}
	}()
}

type list struct {
	name string
	read func() ([]string, error)
}

func lists(f flags) []list {
	network := filepath.Join(f.stateDir, "network")
	names := func(dir string, keep func(string) bool) func() ([]string, error) {
		return func() ([]string, error) {
			entries, err := os.ReadDir(dir)
			var out []string
			for _, e := range entries {
				if keep(e.Name()) {
					out = append(out, e.Name())
				}
			}
			return out, err
		}
	}
	all := func(string) bool { return true }
	return []list{
		{"groups", func() ([]string, error) { return cgroup.Children("/tasks") }},
		{"processes", strays},
		{"mounts", mounts(f.store+"/containers/", f.stateDir+"/mounts/", "/run/netns/")},
		{"volumes", names(filepath.Join(f.stateDir, "mounts"), all)},
		{"netns", names("/run/netns", all)},
		{"libcontainer", names(filepath.Join(f.stateDir, "libcontainer"), all)},
		{"bundles", names(filepath.Join(f.store, "containers"), all)},
		{"pipes", names(filepath.Join(f.stateDir, "pipes"), all)},
		{"records", names(filepath.Join(f.stateDir, "containers"), func(n string) bool { return n != "fence" })},
		{"attachments", names(filepath.Join(network, "attachments"), all)},
		{"leases", names(filepath.Join(network, "leases", cni.Name), func(n string) bool { return strings.Count(n, ".") == 3 })},
		{"results", names(filepath.Join(network, "cache", "results"), all)},
		{"interfaces", names(filepath.Join("/sys/class/net", cni.Bridge, "brif"), all)},
		{"translations", firewall.Translations},
		{"fds", openFIFOs},
	}
}

// strays are processes of containers, by their command names: in no group of the
// system's, or dead and not reaped.
func strays() ([]string, error) {
	found, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, at := range found {
		raw, err := os.ReadFile(at)
		if err != nil {
			continue
		}
		dir := filepath.Dir(at)
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		name, rest, _ := strings.Cut(string(stat), ") ")
		dead := strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
		if strings.Contains(string(raw), "::/tasks/") || dead {
			out = append(out, name+") "+strings.TrimSpace(string(raw)))
		}
	}
	return out, nil
}

// mounts are those below some directories.
func mounts(below ...string) func() ([]string, error) {
	return func() ([]string, error) {
		raw, err := os.ReadFile("/proc/self/mountinfo")
		var out []string
		for line := range strings.SplitSeq(string(raw), "\n") {
			at := strings.Fields(line)
			if len(at) > 4 && slices.ContainsFunc(below, func(dir string) bool { return strings.HasPrefix(at[4], dir) }) {
				out = append(out, at[4])
			}
		}
		return out, err
	}
}

// openFIFOs are pipes of containers that this program has open still.
func openFIFOs() ([]string, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	var out []string
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.Contains(to, "/pipes/") {
			out = append(out, to)
		}
	}
	return out, err
}
