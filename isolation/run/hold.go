package run

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const maxHeld = 16 << 20

// Hold is what this program does when it is started to wait before a task's program:
// it reads what to become, waits for a byte, and becomes it. When its keeper dies before
// the byte, it ends without having done anything. It never returns.
func Hold() {
	said := os.NewFile(4, "said")
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	if err := hold(os.NewFile(3, "open")); err != nil {
		fmt.Fprint(said, err)
	}
	os.Exit(127)
}

func hold(open io.Reader) error {
	r := bufio.NewReader(open)
	var n int
	if _, err := fmt.Fscanf(r, "%d\n", &n); err != nil || n < 0 || n > maxHeld {
		return nil // the keeper is gone
	}
	plan := make([]byte, n)
	if _, err := io.ReadFull(r, plan); err != nil {
		return nil
	}
	var h held
	if err := json.Unmarshal(plan, &h); err != nil {
		return fmt.Errorf("read plan: %w", err)
	}
	if _, err := r.ReadByte(); err != nil {
		return nil
	}
	return h.become()
}

func (h held) become() error {
	if h.Chroot != "" {
		if err := h.enter(); err != nil {
			return err
		}
	}
	if h.Switch {
		if err := syscall.Setgroups(h.Groups); err != nil {
			return fmt.Errorf("set groups: %w", err)
		}
		if err := syscall.Setgid(h.GID); err != nil {
			return fmt.Errorf("become group %d: %w", h.GID, err)
		}
		if err := syscall.Setuid(h.UID); err != nil {
			return fmt.Errorf("become user %d: %w", h.UID, err)
		}
	}
	if err := os.Chdir(h.Cwd); err != nil {
		return fmt.Errorf("enter working directory: %w", err)
	}
	path, err := h.find()
	if err != nil {
		return err
	}
	argv := append([]string(nil), h.Argv...)
	if h.Argv0 != "" {
		argv[0] = h.Argv0
	}
	if err := syscall.Exec(path, argv, h.Env); err != nil {
		return fmt.Errorf("start program %s: %w", path, err)
	}
	return nil
}

// enter makes a mount namespace of the task's own, binds the sandbox and the volumes into
// the image's root and moves into it.
func (h held) enter() error {
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make mount namespace: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, b := range append([][2]string{{h.Sandbox, h.Inside}, {"/dev", "/dev"}}, h.Volumes...) {
		if err := syscall.Mount(b[0], filepath.Join(h.Chroot, b[1]), "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s into the image: %w", b[0], err)
		}
	}
	if err := syscall.Chroot(h.Chroot); err != nil {
		return fmt.Errorf("enter the image's root: %w", err)
	}
	return os.Chdir("/")
}

func (h held) find() (string, error) {
	name := h.Argv[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, e := range h.Env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			os.Setenv("PATH", value)
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find program: %w", err)
	}
	return filepath.Abs(path)
}
