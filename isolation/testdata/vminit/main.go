// Command vminit is a PID 1 for trying isolated alone in a virtual machine.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/init/modules"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/internal/wire/pid1"
)

func check(err error, what string) {
	if err != nil {
		fmt.Println("VM: ", what, err)
	}
}

func mnt(src, dst, kind, opt string) {
	os.MkdirAll(dst, 0o755)
	check(unix.Mount(src, dst, kind, 0, opt), "mount "+dst)
}

var statuses = struct {
	sync.Mutex
	m    map[int]unix.WaitStatus
	reg  map[string]int
	cond *sync.Cond
}{m: map[int]unix.WaitStatus{}, reg: map[string]int{}}

func main() {
	os.Setenv("PATH", "/bin")
	if len(os.Args) > 1 && os.Args[1] == "drive" {
		drive()
		return
	}
	mnt("proc", "/proc", "proc", "")
	mnt("sys", "/sys", "sysfs", "")
	mnt("dev", "/dev", "devtmpfs", "")
	mnt("cg", "/sys/fs/cgroup", "cgroup2", "")
	mnt("run", "/run", "tmpfs", "")
	mnt("tmp", "/tmp", "tmpfs", "")
	for _, g := range []string{"/store", "/tasks"} {
		os.MkdirAll("/sys/fs/cgroup"+g, 0o755)
	}
	// bind trick
	os.MkdirAll("/newroot", 0o755)
	check(unix.Mount("/", "/newroot", "", unix.MS_BIND, ""), "bind")
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/tmp"} {
		check(unix.Mount(d, "/newroot"+d, "", unix.MS_MOVE, ""), "move "+d)
	}
	check(unix.Chdir("/newroot"), "chdir")
	check(unix.Mount(".", "/", "", unix.MS_MOVE, ""), "move root")
	check(unix.Chroot("."), "chroot")
	unix.Chdir("/")
	mnt("store", "/store", "tmpfs", "size=200m")
	mnt("state", "/var/lib/mesolith", "tmpfs", "size=20m")
	os.MkdirAll("/store/work", 0o711)
	os.MkdirAll("/var/lib/mesos", 0o755)
	check(unix.Mount("/store/work", "/var/lib/mesos", "", unix.MS_BIND, ""), "bind work")
	uts := unix.Utsname{}
	unix.Uname(&uts)
	rel := unix.ByteSliceToString(uts.Release[:])
	table, err := modules.ReadTable("/lib/modules/" + rel)
	check(err, "table")
	l := modules.NewLoader(modules.Config{Table: table})
	check(l.BootList("/usr/lib/mesolith/modules.boot"), "bootlist")
	for _, m := range []string{"overlay", "bridge", "veth", "nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_fib_ipv4", "nf_conntrack_netlink"} {
		check(l.Load(m, ""), m)
	}
	fmt.Println("VM:", l.Summary())
	lo, _ := netlink.LinkByName("lo")
	netlink.LinkSetUp(lo)
	a, _ := netlink.ParseAddr("10.99.0.1/32")
	netlink.AddrAdd(lo, a)
	os.MkdirAll("/run/mesolith", 0o755)
	statuses.cond = sync.NewCond(&statuses)
	ln, err := net.Listen("unix", "/run/mesolith/init.sock")
	check(err, "init.sock")
	go serve(ln)
	go func() {
		for {
			if startIsolated() != nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	p, err := os.StartProcess("/init", []string{"/init", "drive"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}, Env: os.Environ()})
	check(err, "drive")
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		statuses.Lock()
		statuses.m[pid] = ws
		statuses.cond.Broadcast()
		statuses.Unlock()
		if p != nil && pid == p.Pid {
			unix.Sync()
			unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
	}
}

func startIsolated() error {
	p, err := os.StartProcess("/usr/lib/mesolith/isolated/isolated", []string{"isolated", "--pull", "/pull"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}, Env: os.Environ()})
	if err != nil {
		return err
	}
	os.WriteFile("/run/isolated.pid", []byte(strconv.Itoa(p.Pid)), 0o644)
	statuses.Lock()
	for {
		if ws, ok := statuses.m[p.Pid]; ok {
			fmt.Println("VM: isolated ended", ws.ExitStatus(), ws.Signal())
			break
		}
		statuses.cond.Wait()
	}
	statuses.Unlock()
	return nil
}

func serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for {
				r := &pid1.Request{}
				if wire.Read(c, r, 1<<20) != nil {
					return
				}
				out := &pid1.Response{Id: r.Id}
				statuses.Lock()
				switch b := r.Body.(type) {
				case *pid1.Request_Register:
					statuses.reg[b.Register.ContainerId] = int(b.Register.Pid)
				case *pid1.Request_Status:
					pid, ok := statuses.reg[b.Status.ContainerId]
					out.Body = &pid1.Response_Exit{Exit: &pid1.ExitStatus{}}
					for ok {
						if ws, there := statuses.m[pid]; there {
							out.Body = &pid1.Response_Exit{Exit: &pid1.ExitStatus{State: pid1.ExitStatus_EXITED, WaitStatus: uint32(ws)}}
							break
						}
						statuses.cond.Wait()
					}
				}
				statuses.Unlock()
				wire.Write(c, out)
			}
		}()
	}
}

type driver struct {
	c   net.Conn
	all map[string]*keeper.Container
	at  map[string]time.Time
}

func dial() *driver {
	for {
		c, err := net.Dial("unix", "/run/mesolith/isolated.sock")
		if err == nil {
			d := &driver{c: c, all: map[string]*keeper.Container{}, at: map[string]time.Time{}}
			wire.Write(c, &keeper.Request{Id: 1, Body: &keeper.Request_Hello{Hello: &keeper.Hello{Protocol: 1, Program: "t"}}})
			r := d.read()
			if r != nil {
				fmt.Println("VM: hello", r)
				return d
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (d *driver) read() *keeper.Response {
	r := &keeper.Response{}
	if err := wire.Read(d.c, r, 1<<24); err != nil {
		fmt.Println("VM: read", err)
		return nil
	}
	if r.Error != nil {
		fmt.Println("VM: ERROR", r.Error)
	}
	if e := r.GetEvent(); e != nil {
		d.all[e.ContainerId] = e
		fmt.Printf("VM: %8.3f event %s %s pid %d ips %v %s %s\n", float64(time.Since(start).Microseconds())/1e6, e.ContainerId, e.Phase, e.Pid, e.IpAddresses, e.Limitation, e.Message)
	}
	if l := r.GetList(); l != nil {
		for _, c := range l.Containers {
			d.all[c.ContainerId] = c
		}
	}
	return r
}

var start = time.Now()
var id uint64 = 10

func (d *driver) ask(b *keeper.Request) {
	id++
	b.Id = id
	wire.Write(d.c, b)
	for {
		r := d.read()
		if r == nil || r.Id == id {
			return
		}
	}
}

func (d *driver) until(id string, phases ...keeper.Container_Phase) *keeper.Container {
	for {
		if c := d.all[id]; c != nil {
			for _, p := range phases {
				if c.Phase == p {
					return c
				}
			}
		}
		if d.read() == nil {
			return nil
		}
	}
}

func (d *driver) launch(id, line string, f func(*keeper.Launch, *mesosv1.TaskInfo)) {
	t := &mesosv1.TaskInfo{Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t-" + id)}, AgentId: &mesosv1.AgentID{Value: proto.String("S0")},
		Command: &mesosv1.CommandInfo{Value: proto.String(line)}}
	l := &keeper.Launch{ContainerId: id, AgentId: "S0", FrameworkId: "F0", ExecutorId: "t-" + id, TaskId: "t-" + id, User: "root", CpuMillis: 100, MemoryBytes: 64 << 20, Term: 1}
	if f != nil {
		f(l, t)
	}
	l.TaskInfo, _ = proto.Marshal(t)
	d.ask(&keeper.Request{Body: &keeper.Request_Launch{Launch: l}})
}

func (d *driver) out(id string) {
	c := d.all[id]
	for _, n := range []string{"stdout", "stderr"} {
		raw, err := os.ReadFile(c.Sandbox + "/" + n)
		fmt.Printf("VM: --- %s %s (%v)\n%s", id, n, err, raw)
	}
}

func (d *driver) run(id, line string, f func(*keeper.Launch, *mesosv1.TaskInfo)) {
	t := time.Now()
	d.launch(id, line, f)
	c := d.until(id, keeper.Container_RUNNING, keeper.Container_ENDED, keeper.Container_FAILED)
	fmt.Printf("VM: %s to %s %v\n", id, c.GetPhase(), time.Since(t))
	c = d.until(id, keeper.Container_ENDED, keeper.Container_FAILED)
	ws := syscall.WaitStatus(c.GetWaitStatus())
	fmt.Printf("VM: %s %s exit %d signal %v peak %d limitation %v failure %v: %s\n", id, c.GetPhase(), ws.ExitStatus(), ws.Signal(), c.GetMemoryPeakBytes(), c.GetLimitation(), c.GetFailure(), c.GetMessage())
	d.out(id)
}

func killIsolated() {
	raw, _ := os.ReadFile("/run/isolated.pid")
	pid, _ := strconv.Atoi(string(raw))
	syscall.Kill(pid, syscall.SIGKILL)
}

func drive() {
	d := dial()
	d.ask(&keeper.Request{Body: &keeper.Request_Configure{Configure: &keeper.Configure{NodeName: "n1", AdvertiseIp: "10.99.0.1", TasksMemoryBytes: 256 << 20}}})
	d.ask(&keeper.Request{Body: &keeper.Request_SetNetwork{SetNetwork: &keeper.SetNetwork{Version: 1, Pool: "10.88.0.0/16", Subnet: "10.88.1.0/24", Address: "10.99.0.1", Mtu: 1500}}})
	d.run("c1", "id; pwd; env; cat /proc/self/uid_map /proc/self/status | grep -v ctxt; ls -la /; ip addr; cat /etc/hosts; mount; ls -la /dev; echo hi > f; ls -la", nil)
	for i := range 5 {
		d.run("q"+strconv.Itoa(i), "exit "+strconv.Itoa(i), nil)
	}
	if err := extra(d); err != nil {
		fmt.Println("VM: extra", err)
	}
	out, err := exec.Command("/probe", "ls").CombinedOutput()
	_ = out
	_ = err
	fmt.Println("VM: DONE")
}

func extra(d *driver) error {
	d.run("oom", `echo start; x=$(head -c 200000000 /dev/zero | tr '\0' x); echo end`, nil)
	d.run("user", `id; echo $HOME; touch a; ls -la; cat /proc/self/status | grep Cap; tail -1 /etc/passwd`, func(l *keeper.Launch, _ *mesosv1.TaskInfo) { l.User = "alice" })
	d.run("num", `id; touch a; ls -lan`, func(l *keeper.Launch, _ *mesosv1.TaskInfo) { l.User = "100000" })
	d.run("host", `id; ip addr; hostname; ls /sys`, func(l *keeper.Launch, _ *mesosv1.TaskInfo) { l.HostNetwork = true })
	d.run("noprog", "", func(_ *keeper.Launch, t *mesosv1.TaskInfo) {
		t.Command = &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("/no/such")}
	})
	d.run("badimage", "", func(_ *keeper.Launch, t *mesosv1.TaskInfo) {
		t.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: proto.String("127.0.0.1:9/x:1")}}}}
	})
	// deaf first process
	d.launch("deaf", "exec sleep 1000", nil)
	d.until("deaf", keeper.Container_RUNNING)
	t := time.Now()
	d.ask(&keeper.Request{Body: &keeper.Request_Kill{Kill: &keeper.Kill{ContainerId: "deaf", GraceNs: int64(time.Minute), Term: 1}}})
	c := d.until("deaf", keeper.Container_ENDED)
	fmt.Println("VM: deaf", syscall.WaitStatus(c.GetWaitStatus()).Signal(), time.Since(t))
	d.launch("grace", "trap 'echo got; exit 4' TERM; while :; do sleep 0.1; done", nil)
	d.until("grace", keeper.Container_RUNNING)
	time.Sleep(500 * time.Millisecond)
	d.ask(&keeper.Request{Body: &keeper.Request_Kill{Kill: &keeper.Kill{ContainerId: "grace", GraceNs: int64(time.Minute), Term: 1}}})
	c = d.until("grace", keeper.Container_ENDED)
	fmt.Println("VM: grace", syscall.WaitStatus(c.GetWaitStatus()).ExitStatus())
	d.out("grace")
	// network: server with a port, from the host by the node's address
	d.launch("web", "echo hello from $(hostname) > index.html; exec httpd -f -p 31000", func(l *keeper.Launch, _ *mesosv1.TaskInfo) {
		l.Ports = []*keeper.PortRange{{Begin: 31000, End: 31001}}
	})
	c = d.until("web", keeper.Container_RUNNING)
	for _, a := range []string{c.IpAddresses[0] + ":31000", "10.99.0.1:31000"} {
		for range 20 {
			conn, err := net.DialTimeout("tcp", a, time.Second)
			if err != nil {
				fmt.Println("VM: dial", a, err)
				time.Sleep(200 * time.Millisecond)
				continue
			}
			conn.SetDeadline(time.Now().Add(3 * time.Second))
			io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
			raw, err := io.ReadAll(conn)
			fmt.Printf("VM: from %s: %q %v\n", a, raw, err)
			if len(raw) > 0 {
				break
			}
		}
	}
	d.run("client", "echo hairpin:; wget -q -O - http://10.99.0.1:31000/; echo direct:; wget -q -O - http://"+c.IpAddresses[0]+":31000/;  echo blocked:; nc -w 2 10.99.0.1 5052 </dev/null; echo $?", nil)
	// isolated killed while tasks run
	d.launch("stay", "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; exit 9", nil)
	d.launch("gone", "echo x; sleep 0.5; exit 5", nil)
	pid := d.until("stay", keeper.Container_RUNNING).GetPid()
	d.until("gone", keeper.Container_RUNNING)
	for range 3 {
		killIsolated()
		time.Sleep(700 * time.Millisecond)
	}
	d = dial()
	d.ask(&keeper.Request{Body: &keeper.Request_List{List: &keeper.List{}}})
	fmt.Println("VM: same pid", d.all["stay"].GetPid() == pid, d.all["stay"].GetPhase())
	for _, id := range []string{"stay", "gone"} {
		c = d.until(id, keeper.Container_ENDED, keeper.Container_FAILED)
		fmt.Println("VM:", id, c.GetPhase(), syscall.WaitStatus(c.GetWaitStatus()).ExitStatus(), c.GetFailure(), c.GetMessage())
		raw, _ := os.ReadFile(c.Sandbox + "/stdout")
		fmt.Println("VM: lines", strings.Count(string(raw), "\n"))
	}
	d.ask(&keeper.Request{Body: &keeper.Request_Kill{Kill: &keeper.Kill{ContainerId: "web", GraceNs: 0, Term: 1}}})
	d.until("web", keeper.Container_ENDED)
	left, _ := os.ReadDir("/sys/fs/cgroup/tasks")
	for _, e := range left {
		if e.IsDir() {
			fmt.Println("VM: left cgroup", e.Name())
		}
	}
	for _, dir := range []string{"/run/netns", "/store/containers", "/var/lib/mesolith/isolated/libcontainer", "/var/lib/mesolith/isolated/pipes"} {
		es, _ := os.ReadDir(dir)
		fmt.Println("VM: left in", dir, len(es))
	}
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	fmt.Println("VM: mounts", strings.Count(string(raw), "\n"), errors.Is(nil, nil))
	return nil
}
