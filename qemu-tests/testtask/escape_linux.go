package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// escapes are the first steps of ways out that container runtimes have had. Each is tried
// as the original was, and must fail.
func escapes() map[string]func() error {
	sandbox := os.Getenv("MESOS_SANDBOX")
	return map[string]func() error{
		// CVE-2022-0492: a control group of the first version has a program that the kernel
		// runs as the node's root.
		"mount a control group of the first version": func() error { return mountOn(sandbox, "cgroup", "memory") },
		"mount a control group of the second":        func() error { return mountOn(sandbox, "cgroup2", "") },
		"name a release agent":                       func() error { return writeTo("/sys/fs/cgroup/release_agent", sandbox+"/evil") },
		"make a control group":                       func() error { return os.Mkdir("/sys/fs/cgroup/evil", 0o755) },
		"leave its control group":                    func() error { return writeTo("/sys/fs/cgroup/cgroup.procs", "0") },
		"new control group namespace":                call(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP),
		// CVE-2022-0185: the new way to mount, from a user namespace of its own.
		"new user and mount namespace": call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER|unix.CLONE_NEWNS),
		"fsopen":                       func() error { _, err := unix.Fsopen("ext4", 0); return err },
		"fsconfig":                     call(unix.SYS_FSCONFIG, ^uintptr(0), 0, 0, 0, 0),
		"open_tree":                    func() error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err },
		// CVE-2019-5736: the runtime's file, through the process that it left behind.
		"write the file that it runs from": func() error { return openToWrite("/proc/self/exe") },
		"write the first process's file":   func() error { return openToWrite("/proc/1/exe") },
		// CVE-2024-21626: a descriptor or a working directory of the node's.
		"walk out through a descriptor":        throughDescriptors,
		"walk out through a working directory": func() error { return sees("/proc/1/cwd/../../../../..") },
		// CVE-2025-31133, CVE-2025-52565: masks and the console are bound from the container's /dev.
		"reach kcore's contents":            unreadable("/proc/kcore"),
		"put something in place of null":    func() error { return mountOver("/dev/null") },
		"put something in place of console": func() error { return mountOver("/dev/console") },
		"open a console":                    func() error { return openToWrite("/dev/console") },
		// CVE-2025-52881: what the runtime writes to /proc ends elsewhere.
		"name a core pattern":            func() error { return writeTo("/proc/sys/kernel/core_pattern", "|"+sandbox+"/evil") },
		"press a magic key":              func() error { return writeTo("/proc/sysrq-trigger", "h") },
		"put something in place of attr": func() error { return mountOver("/proc/self/attr") },
		"name a module loader":           func() error { return writeTo("/proc/sys/kernel/modprobe", sandbox+"/evil") },
		"name a program for uevents":     func() error { return writeTo("/sys/kernel/uevent_helper", sandbox+"/evil") },
		"name an interpreter":            func() error { return writeTo("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/evil:") },
		// CVE-2024-45310: directories made outside of the root.
		"make a directory above its root": func() error { return outside(sandbox) },
		"the node's files":                func() error { return sees("/") },
	}
}

// attempt tries all that must fail, says what did not, and where it found itself.
func attempt() error {
	at, err := os.Getwd()
	fmt.Println("working directory", at, err)
	tried := 0
	for _, list := range []map[string]func() error{mustFail(), escapes(), {"the node's files from its working directory": func() error { return seesAbove(".") }}} {
		for name, try := range list {
			tried++
			if try() == nil {
				fmt.Println("allowed:", name)
			}
		}
	}
	fmt.Println("tried", tried)
	return nil
}

// seesAbove looks in a directory and in those above it.
func seesAbove(dir string) error {
	for range 16 {
		if err := sees(dir); err == nil {
			return nil
		}
		dir += "/.."
	}
	return errors.New("nothing of the node's is there")
}

func mountOn(sandbox, kind, data string) error {
	at := filepath.Join(sandbox, "mounted")
	if err := os.Mkdir(at, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	return unix.Mount("x", at, kind, 0, data)
}

func mountOver(path string) error { return unix.Mount("/", path, "", unix.MS_BIND, "") }

func writeTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// openToWrite opens by path and by way of a handle, as the attack on the runtime did.
func openToWrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		return f.Close()
	}
	handle, herr := unix.Open(path, unix.O_PATH, 0)
	if herr != nil {
		return err
	}
	defer unix.Close(handle)
	f, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", handle), os.O_WRONLY, 0)
	if err == nil {
		return f.Close()
	}
	return err
}

// nodeFiles are what a node has and no container.
var nodeFiles = []string{"usr/lib/mesolith", "var/lib/mesolith", "store/containers", "run/mesolith"}

// sees gives an error unless a directory leads to the node's files.
func sees(dir string) error {
	for _, name := range nodeFiles {
		if _, err := os.Lstat(dir + "/" + name); err == nil {
			return nil
		}
	}
	return errors.New("nothing of the node's is there")
}

// throughDescriptors climbs from every descriptor and every process that it can name.
func throughDescriptors() error {
	ways, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return err
	}
	roots, err := filepath.Glob("/proc/[0-9]*/root")
	if err != nil {
		return err
	}
	for _, way := range append(ways, roots...) {
		for _, up := range []string{"", "/..", strings.Repeat("/..", 12)} {
			for _, name := range nodeFiles {
				if _, err := os.Lstat(way + up + "/" + name); err == nil {
					return nil
				}
			}
		}
	}
	return errors.New("nothing of the node's is there")
}

// outside makes a directory by more steps up than there are, and says nothing was done
// when it is found inside.
func outside(sandbox string) error {
	name := "made-" + filepath.Base(sandbox)
	if err := os.Mkdir(strings.Repeat("../", 40)+"tmp/"+name, 0o755); err != nil {
		return err
	}
	if _, err := os.Lstat("/tmp/" + name); err != nil {
		return nil
	}
	return errors.New("it is inside")
}
