package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Row is one line of what a task may do, as found out from inside.
type Row struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Value   string `json:"value"`
}

// Inspection is the whole table with the count of what was tried for it.
type Inspection struct {
	Rows []Row `json:"rows"`
	// Tried counts attempts by kind: most of them leave no row, because they failed.
	Tried map[string]int `json:"tried"`
}

// inspect prints the table as one line of JSON; arguments are NAME=ADDRESS of machines
// whose doors are tried, "gateway" for its own network's, and "sysfs" for a look at every
// file of /sys, which are many.
func inspect(machines []string) error {
	runtime.GOMAXPROCS(4) // who asks and who answers must not wait for each other
	in := Inspection{Tried: map[string]int{}}
	leaked := strings.Join(descriptors(), ", ")
	in.identity(leaked)
	in.limits()
	in.mounts()
	in.devices()
	in.masks()
	in.processes()
	roots := []string{"/proc"}
	if i := slices.Index(machines, "sysfs"); i >= 0 {
		machines = slices.Delete(slices.Clone(machines), i, i+1)
		roots = append(roots, "/sys")
	}
	in.writable(roots)
	calls, err := callRows()
	if err != nil {
		return err
	}
	in.Rows = append(in.Rows, calls...)
	in.Tried["system calls"] = len(calls)
	in.attempts("attempts", mustFail())
	in.attempts("escapes", escapes())
	in.doors(machines)
	out, err := json.Marshal(in)
	if err != nil {
		return err
	}
	fmt.Println(string(out))
	return nil
}

func (in *Inspection) add(section, name, value string) {
	if value == "" {
		value = "none"
	}
	value = strings.ReplaceAll(value, "\n", ", ")
	in.Rows = append(in.Rows, Row{section, name, value})
}

func (in *Inspection) identity(leaked string) {
	in.add("identity", "process id", strconv.Itoa(os.Getpid()))
	in.add("identity", "user", strconv.Itoa(os.Getuid()))
	in.add("identity", "user ids", strings.Join(strings.Fields(read("/proc/self/uid_map")), " "))
	in.add("identity", "group ids", strings.Join(strings.Fields(read("/proc/self/gid_map")), " "))
	in.add("identity", "control group", strings.TrimSpace(read("/proc/self/cgroup")))
	in.add("identity", "open descriptors of others", leaked)
	in.add("identity", "oom_score_adj", strings.TrimSpace(read("/proc/self/oom_score_adj")))
	host, _ := os.Hostname()
	in.add("identity", "host name", host)
	for _, n := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		link, _ := os.Readlink("/proc/self/ns/" + n)
		in.add("namespaces", n, link)
	}
	status := map[string]string{}
	for line := range strings.SplitSeq(read("/proc/self/status"), "\n") {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	in.add("identity", "no_new_privs", status["NoNewPrivs"])
	in.add("identity", "seccomp", map[string]string{"0": "none", "1": "strict", "2": "a filter"}[status["Seccomp"]])
	for _, set := range []string{"CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"} {
		in.add("capabilities", set, numbersOf(status[set]))
	}
	interfaces, _ := net.Interfaces()
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	in.add("identity", "network interfaces", strings.Join(names, " "))
}

// numbersOf names the bits of a mask.
func numbersOf(mask string) string {
	set, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		return mask
	}
	var out []string
	for i := range 64 {
		if set&(1<<i) != 0 {
			out = append(out, strconv.Itoa(i))
		}
	}
	return strings.Join(out, " ")
}

var rlimits = []struct {
	name string
	what int
}{
	{"address space", unix.RLIMIT_AS},
	{"core file", unix.RLIMIT_CORE},
	{"CPU seconds", unix.RLIMIT_CPU},
	{"data", unix.RLIMIT_DATA},
	{"file size", unix.RLIMIT_FSIZE},
	{"locks", unix.RLIMIT_LOCKS},
	{"locked memory", unix.RLIMIT_MEMLOCK},
	{"message queues", unix.RLIMIT_MSGQUEUE},
	{"nice", unix.RLIMIT_NICE},
	{"open files", unix.RLIMIT_NOFILE},
	{"processes", unix.RLIMIT_NPROC},
	{"resident memory", unix.RLIMIT_RSS},
	{"realtime priority", unix.RLIMIT_RTPRIO},
	{"realtime", unix.RLIMIT_RTTIME},
	{"pending signals", unix.RLIMIT_SIGPENDING},
	{"stack", unix.RLIMIT_STACK},
}

func (in *Inspection) limits() {
	number := func(n uint64) string {
		if n == unix.RLIM_INFINITY {
			return "unlimited"
		}
		return strconv.FormatUint(n, 10)
	}
	for _, l := range rlimits {
		var got unix.Rlimit
		// Of open files this program has raised the soft limit to the hard one, as all
		// programs in Go do.
		if err := unix.Prlimit(0, l.what, nil, &got); err != nil {
			in.add("limits", l.name, err.Error())
			continue
		}
		in.add("limits", l.name, number(got.Cur)+" / "+number(got.Max))
	}
	for _, f := range []string{"cpu.max", "cpu.weight", "memory.high", "memory.max", "memory.min", "memory.oom.group", "memory.swap.max", "pids.max"} {
		in.add("limits", f, strings.TrimSpace(read("/sys/fs/cgroup/"+f)))
	}
}

func (in *Inspection) mounts() {
	for line := range strings.SplitSeq(strings.TrimSpace(read("/proc/self/mountinfo")), "\n") {
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if dash < 6 || len(f) < dash+3 {
			continue
		}
		at := strings.ReplaceAll(f[4], os.Getenv("MESOS_SANDBOX"), "$MESOS_SANDBOX")
		in.add("mounts", at, f[dash+1]+" "+f[5])
	}
}

func (in *Inspection) devices() {
	err := filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		what := "file"
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			in.add("devices", path, "leads to "+to)
			return nil
		case info.Mode()&fs.ModeDevice != 0:
			what = "device"
		}
		in.Tried["devices opened"]++
		in.add("devices", path, fmt.Sprintf("%s, %s: %s", what, info.Mode().Perm(), opened(path, unix.O_RDWR)))
		return nil
	})
	if err != nil {
		in.add("devices", "/dev", err.Error())
	}
	for _, d := range []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{
		{"memory", unix.S_IFCHR, 1, 1},
		{"null", unix.S_IFCHR, 1, 3},
		{"kernel messages", unix.S_IFCHR, 1, 11},
		{"console", unix.S_IFCHR, 5, 1},
		{"first terminal", unix.S_IFCHR, 4, 1},
		{"tun", unix.S_IFCHR, 10, 200},
		{"fuse", unix.S_IFCHR, 10, 229},
		{"loop control", unix.S_IFCHR, 10, 237},
		{"watchdog", unix.S_IFCHR, 10, 130},
		{"KVM", unix.S_IFCHR, 10, 232},
		{"first SCSI disk", unix.S_IFBLK, 8, 0},
		{"first virtio disk", unix.S_IFBLK, 254, 0},
		{"first loop disk", unix.S_IFBLK, 7, 0},
	} {
		path := filepath.Join(os.Getenv("MESOS_SANDBOX"), "device")
		in.Tried["devices made"]++
		err := unix.Mknod(path, d.mode|0o600, int(unix.Mkdev(d.major, d.minor)))
		if err == nil {
			if text := opened(path, unix.O_RDONLY); text != "opens" {
				err = errors.New(text)
			}
			os.Remove(path)
		}
		in.add("devices that it makes", d.name, outcome(err))
	}
}

// opened opens and says so, or why not.
func opened(path string, how int) string {
	fd, err := unix.Open(path, how|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err.Error()
	}
	unix.Close(fd)
	return "opens"
}

// masked are paths that the node's own programs find full.
var masked = []string{
	"/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/proc/sysrq-trigger", "/proc/kmsg", "/proc/kpageflags", "/proc/kpagecount",
	"/proc/config.gz", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/modules", "/proc/pressure/memory", "/proc/sys/kernel/core_pattern",
	"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf", "/sys/fs/pstore",
	"/sys/fs/selinux", "/sys/kernel/vmcoreinfo", "/sys/module",
}

func (in *Inspection) masks() {
	for _, path := range masked {
		info, err := os.Lstat(path)
		switch {
		case err != nil:
			in.add("what it can read", path, "is not there")
		case info.IsDir():
			entries, err := os.ReadDir(path)
			in.add("what it can read", path, verdict(err, len(entries)))
		default:
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			n := 0
			if err == nil {
				n, _ = f.Read(make([]byte, 64))
				f.Close()
			}
			in.add("what it can read", path, verdict(err, n))
		}
	}
}

func verdict(err error, n int) string {
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case err != nil:
		return err.Error()
	case n <= 0:
		return "empty"
	}
	return "is read"
}

func (in *Inspection) processes() {
	entries, _ := os.ReadDir("/proc")
	var others []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && pid != os.Getppid() {
			others = append(others, e.Name())
		}
	}
	in.add("identity", "processes of others that it sees", strings.Join(others, " "))
}

// writable opens every file of the kernel's file systems for writing, and writes none.
func (in *Inspection) writable(roots []string) {
	self := fmt.Sprintf("/proc/%d", os.Getpid())
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return fs.SkipDir
			}
			name := d.Name()
			if d.IsDir() {
				_, err := strconv.Atoi(name)
				ofOthers := err == nil && filepath.Dir(path) == "/proc" && path != self
				if ofOthers || path == self+"/task" || path == self+"/fd" || path == self+"/fdinfo" || path == self+"/map_files" {
					return fs.SkipDir
				}
				return nil
			}
			if d.Type()&fs.ModeSymlink != 0 {
				return nil
			}
			in.Tried["files of "+root+" opened for writing"]++
			if opened(path, unix.O_WRONLY) == "opens" {
				in.add("what it can open for writing", strings.Replace(path, self, "/proc/self", 1), "opens")
			}
			return nil
		})
	}
}

func (in *Inspection) attempts(section string, tries map[string]func() error) {
	var names []string
	for name := range tries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		in.Tried[section]++
		err := tries[name]()
		text := outcome(err)
		var errno unix.Errno
		if errors.As(err, &errno) {
			text = errno.Error()
		}
		in.add(section, name, text)
	}
}

// doors tries the ports of machines, its own gateway included.
func (in *Inspection) doors(machines []string) {
	if i := slices.Index(machines, "gateway"); i >= 0 {
		at := gateway()
		machines = slices.Replace(slices.Clone(machines), i, i+1, "its gateway="+at)
		_, _ = net.DialTimeout("tcp", net.JoinHostPort(at, "5049"), time.Second) // so that its MAC is known
		machines = append(machines, "its gateway by IPv6="+linkLocal(at))
	}
	type door struct{ name, network, at string }
	var all []door
	for _, m := range machines {
		name, at, _ := strings.Cut(m, "=")
		for _, port := range []string{"5050", "5051", "5052", "5053", "5054"} {
			all = append(all, door{name + ", TCP " + port, "tcp", net.JoinHostPort(at, port)})
		}
		// Nobody listens on most of these: a port that is not shut answers by ICMP.
		for _, port := range []string{"5049", "5052", "5053", "5054", "67", "69", "4011"} {
			all = append(all, door{name + ", UDP " + port, "udp", net.JoinHostPort(at, port)})
		}
	}
	found := make([]string, len(all))
	var trying sync.WaitGroup
	for i, d := range all {
		trying.Go(func() {
			if d.network == "udp" {
				found[i] = knock(d.at)
				return
			}
			c, err := net.DialTimeout("tcp", d.at, 4*time.Second)
			found[i] = answered(err)
			if err == nil {
				c.Close()
			}
		})
	}
	trying.Wait()
	for i, d := range all {
		in.Tried["doors"]++
		in.add("doors", d.name, found[i])
	}
}

func answered(err error) string {
	switch {
	case err == nil:
		return "open"
	case errors.Is(err, unix.ECONNREFUSED):
		return "not shut, nobody there"
	case os.IsTimeout(err):
		return "shut"
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// knock sends a datagram until something comes back, if only that nobody is there. A kernel
// says that once a second to each who asks, however many ports he asks for.
func knock(at string) string {
	c, err := net.Dial("udp", at)
	if err != nil {
		return answered(err)
	}
	defer c.Close()
	for range 25 {
		if _, err = c.Write([]byte("?")); err == nil {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			_, err = c.Read(make([]byte, 64))
		}
		if !os.IsTimeout(err) {
			break
		}
	}
	if os.IsTimeout(err) {
		return "no answer"
	}
	return answered(err)
}

// gateway is where the default route leads.
func gateway() string {
	for line := range strings.SplitSeq(read("/proc/net/route"), "\n") {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "00000000" {
			continue
		}
		raw, err := hex.DecodeString(f[2])
		if err != nil || len(raw) != 4 {
			continue
		}
		slices.Reverse(raw)
		at, _ := netip.AddrFromSlice(raw)
		return at.String()
	}
	return ""
}

// linkLocal is a neighbour's IPv6 address on the same wire, made of its MAC.
func linkLocal(of string) string {
	for line := range strings.SplitSeq(read("/proc/net/arp"), "\n") {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != of {
			continue
		}
		mac, err := net.ParseMAC(f[3])
		if err != nil || len(mac) != 6 {
			continue
		}
		at := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
		return at.WithZone(f[5]).String()
	}
	return ""
}
