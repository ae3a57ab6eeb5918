package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// devKeeper is the isolated that --dev starts beside itself: in a session of its own,
// so that it and the tasks outlive clusterd.
type devKeeper struct {
	socket string
	path   string
	args   []string
	log    string
	beside *slog.Logger
}

// newDevKeeper finds the program: named by the flag, or beside clusterd itself.
func newDevKeeper(dir, program string, log *slog.Logger) (*devKeeper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	if program == "" {
		program = filepath.Join(filepath.Dir(self), "isolated")
	}
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("the container keeper is not there: %w: build it with `make build`, or name it with --isolated PATH", err)
	}
	socket := filepath.Join(dir, "isolated.sock")
	if len(socket) > 100 {
		return nil, fmt.Errorf("the path %s is too long for a Unix socket (%d characters, at most 100): choose a shorter --dir", socket, len(socket))
	}
	return &devKeeper{
		socket: socket, path: program, log: filepath.Join(dir, "isolated.log"), beside: log,
		args: []string{
			"--socket", socket, "--init-socket", "", "--state-dir", filepath.Join(dir, "isolated"),
			"--work-dir", filepath.Join(dir, "work"), "--store", filepath.Join(dir, "store"),
			"--cni-bin", filepath.Join(filepath.Dir(self), "cni"), "--pull", self + " pull",
			"--base", filepath.Join(filepath.Dir(self), "base.tar.zst"),
		},
	}, nil
}

// run keeps an isolated answering on the socket until ctx ends, and leaves it running.
func (k *devKeeper) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if !k.answers() {
			if err := k.start(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
	return nil
}

func (k *devKeeper) answers() bool {
	c, err := net.DialTimeout("unix", k.socket, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func (k *devKeeper) start() error {
	out, err := os.OpenFile(k.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open isolated's log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(k.path, k.args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start isolated: %w", err)
	}
	k.beside.Info("isolated started", "pid", cmd.Process.Pid, "log", k.log)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for range 300 {
		if k.answers() {
			go func() {
				if err := <-ended; err != nil {
					k.beside.Warn("isolated ended; it is started again", "why", err.Error())
				}
			}()
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("isolated ended at once (%v): %s", err, tail(k.log))
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("isolated (pid %d) does not answer on %s within 30 s: see %s", cmd.Process.Pid, k.socket, k.log)
}

// tail gives the last line of a log, for a message.
func tail(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return lines[len(lines)-1]
}

// holder finds who holds the socket, for the words at the end.
func (k *devKeeper) holder() (int, error) {
	c, err := net.Dial("unix", k.socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		cred, sockErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if sockErr != nil {
		return 0, sockErr
	}
	return int(cred.Pid), nil
}

// lockDir keeps two clusterds out of one directory.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		raw, _ := os.ReadFile(f.Name())
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("the directory %s is in use by another clusterd (pid %s): end that one or choose another --dir", dir, strings.TrimSpace(string(raw)))
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, err
	}
	return f, nil
}
