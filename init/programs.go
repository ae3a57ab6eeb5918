package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/mesolith/mesolith/init/fault"
	"github.com/mesolith/mesolith/init/mounts"
	"github.com/mesolith/mesolith/init/supervise"
	"github.com/mesolith/mesolith/internal/nodeplan"
	"golang.org/x/sys/unix"
)

const (
	library     = "/usr/lib/mesolith"
	programPath = library + "/bin:/bin:/usr/bin:/sbin:/usr/sbin"
)

// programs are what a node runs.
func programs() []supervise.Program {
	env := []string{"PATH=" + programPath, "HOME=/", "LANG=C.UTF-8"}
	group := func(name string) string { return mounts.CgroupDir + "/system/" + name }
	return []supervise.Program{
		{
			Name: "noded", Path: library + "/bin/noded", Env: env, Cgroup: group("noded"), OOMScoreAdj: -999, NoNewPrivs: true,
			Caps: []uintptr{
				unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE,
				unix.CAP_SYS_TIME, unix.CAP_SYSLOG,
				unix.CAP_SYS_ADMIN, // qemu_fw_cfg answers nobody else
				unix.CAP_KILL,
				unix.CAP_SYS_PTRACE, // to read what memory others hold (/proc/PID/smaps_rollup)
			},
		},
		{
			Name: "isolated", Path: library + "/isolated/isolated", Env: env, Cgroup: group("isolated"), OOMScoreAdj: -998,
			Args: []string{
				"--socket", mounts.RunDir + "/isolated.sock", "--init-socket", mounts.RunDir + "/init.sock",
				"--state-dir", mounts.StateDir + "/isolated", "--work-dir", mounts.WorkDir, "--store", mounts.StoreDir,
				"--cni-bin", library + "/cni", "--pull", library + "/bin/clusterd pull", "--base", library + "/base.tar.zst",
			},
		},
		{
			Name: "clusterd", Path: library + "/bin/clusterd", Args: []string{"--node"}, Env: env, Cgroup: group("clusterd"),
			OOMScoreAdj: -997, UID: mounts.ClusterdUID, NoNewPrivs: true,
		},
	}
}

// ports are the listening sockets that init holds, so that a restarted program misses no
// connection. The order within a program is that of its descriptors.
var ports = []struct {
	program, name string
	port          int
}{
	{"noded", "node", 5053},
	{"clusterd", "api", 5050},
	{"clusterd", "agent", 5051},
	{"clusterd", "peer", 5052},
}

func (m *machine) listen() error {
	for _, p := range ports {
		if m.sockets[p.name] != nil {
			continue
		}
		fd, err := listenTCP(p.port)
		if err != nil {
			return fmt.Errorf("listen on port %d: %w", p.port, err)
		}
		m.sockets[p.name] = os.NewFile(uintptr(fd), p.name)
	}
	return nil
}

// listenTCP listens on all addresses, of IPv6 too where the kernel has it.
func listenTCP(port int) (int, error) {
	var address unix.Sockaddr = &unix.SockaddrInet6{Port: port}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	} else {
		address = &unix.SockaddrInet4{Port: port}
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return -1, err
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, address), unix.Listen(fd, 1024))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// prepare gives a program its listening sockets, and noded a fresh pipe for its plan.
func (m *machine) prepare(p *supervise.Program) ([]*os.File, error) {
	fault.At("prepare")
	var names []string
	for _, s := range ports {
		if s.program == p.Name {
			p.Files = append(p.Files, m.sockets[s.name])
			names = append(names, s.name)
		}
	}
	if len(names) > 0 {
		p.Env = append(p.Env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	if p.Name != "noded" {
		return nil, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe for the plan: %w", err)
	}
	p.Env = append(p.Env, "MESOLITH_PLAN_FD="+strconv.Itoa(3+len(p.Files)))
	p.Files = append(p.Files, w)
	go m.readPlans(r)
	return []*os.File{w}, nil
}

// readPlans takes plans until noded's end of the pipe is gone.
func (m *machine) readPlans(r *os.File) {
	defer r.Close()
	for {
		p, err := nodeplan.Read(r)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			m.log.Warn("plan from noded: %v", err)
			return
		}
		m.plans <- p
	}
}
