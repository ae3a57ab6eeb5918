package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
	"github.com/mesolith/mesolith/isolation/spec"
)

// What probes may take. Who asks has bounds of its own; these hold whoever asks.
const (
	maxProbeTime = 10 * time.Minute
	maxProbes    = 64 // of the node, at once
)

// probes are those of one container: one at a time, and none once it is being ended.
type probes struct {
	mu     sync.Mutex
	over   bool
	cancel context.CancelFunc // of the one under way; nil: there is none
	ended  chan struct{}
}

func (p *probes) begin(ctx context.Context) (context.Context, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.over:
		return nil, fmt.Errorf("%w: the container is being ended", ErrNotFound)
	case p.cancel != nil:
		return nil, errors.New("the container is being probed already")
	}
	ctx, p.cancel = context.WithCancel(ctx)
	p.ended = make(chan struct{})
	return ctx, nil
}

func (p *probes) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cancel()
	p.cancel = nil
	close(p.ended)
}

// close ends the one under way and lets no other begin.
func (p *probes) close() {
	p.mu.Lock()
	p.over = true
	cancel, ended := p.cancel, p.ended
	p.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
}

// Probe looks once into a running container. What the container does wrong is told in
// the answer; an error says that nobody could look. The file is a connected socket.
func (k *Keeper) Probe(ctx context.Context, m *keeper.Probe) (*keeper.Probed, *os.File, error) {
	timeout := time.Duration(m.GetTimeoutNs())
	if timeout <= 0 || timeout > maxProbeTime {
		return nil, nil, fmt.Errorf("%w: a probe has a time of up to %s, not %s", ErrInvalid, maxProbeTime, timeout)
	}
	k.mu.Lock()
	c, ok := k.containers[m.GetContainerId()]
	k.mu.Unlock()
	if !ok {
		return nil, nil, fmt.Errorf("%w: container %q", ErrNotFound, m.GetContainerId())
	}
	rec := c.record()
	if rec.Step != records.Exec || rec.Container.GetPhase() != keeper.Container_RUNNING {
		return nil, nil, fmt.Errorf("%w: container %q does not run", ErrNotFound, m.GetContainerId())
	}
	select {
	case k.probing <- struct{}{}:
		defer func() { <-k.probing }()
	default:
		return nil, nil, fmt.Errorf("%d probes are under way on this node already", maxProbes)
	}
	ctx, err := c.probes.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer c.probes.end()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	j, err := k.job(rec)
	if err != nil {
		return nil, nil, err
	}
	p := &Process{PID: int(rec.Container.GetPid()), StartTime: rec.Container.GetStartTime()}
	switch what := m.GetWhat().(type) {
	case *keeper.Probe_Connect:
		return k.probePort(ctx, j, p, what.Connect)
	case *keeper.Probe_Command:
		out, err := k.probeCommand(ctx, j, what.Command)
		return out, nil, err
	}
	return nil, nil, fmt.Errorf("%w: a probe of a kind that is not known here", ErrInvalid)
}

func (k *Keeper) probePort(ctx context.Context, j *Job, p *Process, m *keeper.Connect) (*keeper.Probed, *os.File, error) {
	if m.GetPort() == 0 || m.GetPort() > 65535 {
		return nil, nil, fmt.Errorf("%w: %d is no port", ErrInvalid, m.GetPort())
	}
	uid, err := filesOf(p)
	if err != nil {
		return nil, nil, fmt.Errorf("find who the container runs as: %w", err)
	}
	netns := ""
	if !j.HostNetwork {
		netns = k.runtime.NetNS(j)
	}
	f, err := connectIn(ctx, netns, uid, int(m.GetPort()), m.GetIpv6())
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		if f != nil {
			f.Close()
		}
		return nil, nil, ctx.Err()
	case err != nil:
		return &keeper.Probed{Why: err.Error()}, nil, nil
	}
	return &keeper.Probed{}, f, nil
}

// filesOf is the user whose files a process makes, in the node's ids.
func filesOf(p *Process) (int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil || !alive(p) {
		return 0, fmt.Errorf("%w: process %d has ended", ErrNotFound, p.PID)
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			if f := strings.Fields(ids); len(f) == 4 {
				return strconv.Atoi(f[3])
			}
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no user", p.PID)
}

func (k *Keeper) probeCommand(ctx context.Context, j *Job, raw []byte) (*keeper.Probed, error) {
	command := &mesosv1.CommandInfo{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, command); err != nil {
		return nil, fmt.Errorf("%w: the command of a probe cannot be read: %w", ErrInvalid, err)
	}
	if command.GetValue() == "" {
		return nil, fmt.Errorf("%w: a probe's command has no value", ErrInvalid)
	}
	status, err := k.runtime.Probe(ctx, j, command)
	var failure probeFailure
	switch ws := syscall.WaitStatus(status); {
	case ctx.Err() != nil:
		// The container may be ending, or nobody waits any more; a deadline is its own fault.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &keeper.Probed{Why: "the command has not ended in time, and was ended"}, nil
		}
		return nil, ctx.Err()
	case errors.As(err, &failure):
		return &keeper.Probed{Why: failure.Error()}, nil
	case err != nil:
		return nil, err
	case ws.Signaled():
		return &keeper.Probed{Why: "the command was ended by signal " + ws.Signal().String()}, nil
	default:
		return &keeper.Probed{ExitCode: int32(ws.ExitStatus())}, nil
	}
}

// probeFailure is a command that could not be started where the task runs: the task's
// fault (no such program, no memory left), not the node's.
type probeFailure struct{ err error }

func (f probeFailure) Error() string { return "the command could not be started: " + f.err.Error() }
func (f probeFailure) Unwrap() error { return f.err }

// What a container's first process was made of is written down, for commands that are
// started beside it, because nothing else says it as exactly, and an image may
// have another configuration by then.
func programFile(j *Job) string { return filepath.Join(j.Paths.pipes, "program") }

func saveProgram(j *Job, program any) error {
	raw, err := json.Marshal(program)
	if err == nil {
		err = os.WriteFile(programFile(j), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down what the container is made of: %w", err)
	}
	return nil
}

func loadProgram(j *Job, program any) error {
	raw, err := os.ReadFile(programFile(j))
	if err == nil {
		err = json.Unmarshal(raw, program)
	}
	if err != nil {
		return fmt.Errorf("read what the container was made of: %w", err)
	}
	return nil
}

// withEnv adds a command's own variables to the task's.
func withEnv(env []string, command *mesosv1.CommandInfo) ([]string, error) {
	var given []spec.Variable
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		given = append(given, spec.Variable{Name: name, Value: value})
	}
	return spec.Env(command, noImage, given)
}

// connectIn opens a connection to a port of the loopback address as a user of the node,
// in a network namespace; an empty path is this program's own.
func connectIn(ctx context.Context, netns string, uid, port int, ipv6 bool) (*os.File, error) {
	fd, err := socketIn(netns, uid, ipv6)
	if err != nil {
		return nil, err
	}
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	name := fmt.Sprintf("127.0.0.1:%d", port)
	if ipv6 {
		to, name = &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}, fmt.Sprintf("[::1]:%d", port)
	}
	// It belongs to its namespace for good: from here on any thread will do.
	err = unix.Connect(fd, to)
	f := os.NewFile(uintptr(fd), name)
	if errors.Is(err, unix.EINPROGRESS) {
		err = awaitConnected(ctx, f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("connect to %s: %w", name, err)
	}
	return f, nil
}

func awaitConnected(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var connected error
	err = raw.Write(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds, 0)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(fds, 0)
		}
		if n == 0 {
			return false
		}
		if n, connected = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); connected == nil && n != 0 {
			connected = unix.Errno(n)
		}
		return true
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return errors.Join(err, connected)
}
