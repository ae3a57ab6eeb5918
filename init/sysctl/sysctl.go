// Package sysctl sets the kernel's run-time settings of a node: what hardens it and what
// many containers need.
//
// Invariant: the table is the whole of it; a setting that this kernel does not have is
// passed over, one that it refuses is an error that names it.
//
// Settings of the kernel's command line are the image's. The interfaces' own settings
// are noded's.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

type setting struct{ name, value string }

var table = []setting{
	{"kernel.printk_devkmsg", "on"}, // lines of a busy boot are not dropped
	{"kernel.modprobe", ""},         // there is none; nothing in the kernel may start a program
	{"kernel.panic", "10"},
	{"kernel.panic_on_oops", "1"},
	{"kernel.kptr_restrict", "2"},
	{"kernel.dmesg_restrict", "1"},
	{"kernel.perf_event_paranoid", "3"},
	{"kernel.unprivileged_bpf_disabled", "1"},
	{"kernel.yama.ptrace_scope", "1"}, // not 3: id-mapped mounts are made through a trace
	{"kernel.sysrq", "0"},
	{"kernel.core_pattern", "core"}, // below the sandbox, if a task's limits allow one at all
	{"kernel.core_uses_pid", "1"},
	{"kernel.pid_max", "4194304"},
	// Counts for the whole machine that a single task could use up. What threads and open
	// files cost is memory, which is counted for each task.
	{"kernel.threads-max", "4194304"},
	{"fs.file-max", "9223372036854775807"},
	{"kernel.keys.maxkeys", "20000"},
	{"fs.protected_hardlinks", "1"},
	{"fs.protected_symlinks", "1"},
	{"fs.protected_fifos", "2"},
	{"fs.protected_regular", "2"},
	{"fs.suid_dumpable", "0"},
	{"fs.inotify.max_user_instances", "8192"},
	{"fs.inotify.max_user_watches", "524288"},
	{"vm.overcommit_memory", "1"},
	{"vm.max_map_count", "262144"},
	{"vm.panic_on_oom", "0"},
	{"net.core.bpf_jit_harden", "2"},
	{"net.core.somaxconn", "4096"},
	{"net.ipv4.ip_forward", "1"},
	{"net.ipv4.conf.all.rp_filter", "2"},
	{"net.ipv4.conf.all.accept_redirects", "0"},
	{"net.ipv4.conf.all.send_redirects", "0"},
	{"net.ipv4.conf.default.send_redirects", "0"},
	{"net.ipv4.conf.all.accept_source_route", "0"},
	{"net.ipv4.tcp_syncookies", "1"},
	// The ports that are offered to tasks and our own are nobody's outgoing port.
	{"net.ipv4.ip_local_reserved_ports", "2181,5050-5054,31000-32000"},
}

// Set writes the whole table below root, /proc/sys on a node.
func Set(root string) error {
	var errs []error
	for _, s := range table {
		path := root + "/" + strings.ReplaceAll(s.name, ".", "/")
		err := write(path, s.value)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("set %s to %q: %w", s.name, s.value, err))
		}
	}
	return errors.Join(errs...)
}

// write writes a file that is there; os.WriteFile would make it.
func write(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(value + "\n")
	return err
}
