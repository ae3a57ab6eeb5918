package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// host is a machine for setup.sh to look at: its programs are scripts that a test writes.
type host struct {
	dir  string
	user string // what id -u says
	env  []string
}

func newHost(t *testing.T, installed string, user string) *host {
	t.Helper()
	h := &host{dir: t.TempDir(), user: user}
	for name, script := range map[string]string{
		"go":         "exit 0",
		"pkg-config": "exit 0",
		"node":       "exit 0",
		"npm":        "exit 0",
		"id":         "echo " + user,
		"dpkg-query": `for last; do :; done; case " ` + installed + ` " in *" $last "*) printf installed ;; *) exit 1 ;; esac`,
		"apt-get":    `echo "$@" >>"` + h.log() + `"`,
	} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *host) log() string { return filepath.Join(h.dir, "apt.log") }

// setup runs the script; with an answer on a terminal where somebody types it.
func (h *host) setup(t *testing.T, answer string) (code int, said, apt string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "setup.sh")
	cmd.Env = append([]string{"PATH=" + h.dir}, h.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if answer != "" {
		keys, screen := terminal(t)
		cmd.Stdin = screen
		if _, err := io.WriteString(keys, answer); err != nil {
			t.Fatal(err)
		}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	log, err := os.ReadFile(h.log())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), string(log)
}

// terminal gives both ends of a terminal: what is written to keys is typed on screen.
func terminal(t *testing.T) (keys, screen *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	return keys, screen
}

const (
	allPackages = "gcc libc6-dev make libseccomp-dev qemu-system-x86 nbdkit zstd e2fsprogs ca-certificates"
	withoutQEMU = "gcc libc6-dev make e2fsprogs ca-certificates"
	installLine = "install --no-install-recommends -y libseccomp-dev qemu-system-x86 nbdkit zstd"
)

func TestSetupAsksOnATerminalOnly(t *testing.T) {
	for _, c := range []struct {
		name, installed, user, answer string
		env                           []string
		without                       []string // programs that are not there
		code                          int
		said, apt                     string
	}{
		{name: "nothing is missing", installed: allPackages, user: "1000"},
		{name: "without root", installed: withoutQEMU, user: "1000", code: 1, said: "\n  sudo apt-get " + installLine + "\n"},
		{name: "without root, on a terminal", installed: withoutQEMU, user: "1000", answer: "y\n", code: 1, said: "sudo"},
		{name: "root, no terminal", installed: withoutQEMU, user: "0", apt: installLine + "\n"},
		{name: "root, yes", installed: withoutQEMU, user: "0", answer: "\n", said: "install them now? [Y/n]", apt: installLine + "\n"},
		{name: "root, no", installed: withoutQEMU, user: "0", answer: "n\n", code: 1, said: "the line is: apt-get " + installLine},
		{name: "root, end of typing", installed: withoutQEMU, user: "0", answer: "\x04", code: 1, said: "not installed"},
		{name: "no Node.js", installed: allPackages, user: "0", without: []string{"node", "npm"}, apt: "install --no-install-recommends -y nodejs npm\n"},
		{name: "Node.js without npm", installed: allPackages, user: "0", without: []string{"npm"}, apt: "install --no-install-recommends -y npm\n"},
		{name: "CI, on a terminal", installed: withoutQEMU, user: "0", answer: "n\n", env: []string{"CI=1"}, apt: installLine + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, c.installed, c.user)
			h.env = c.env
			for _, program := range c.without {
				if err := os.Remove(filepath.Join(h.dir, program)); err != nil {
					t.Fatal(err)
				}
			}
			code, said, apt := h.setup(t, c.answer)
			if code != c.code || apt != c.apt || !strings.Contains(said, c.said) || c.said == "" && said != "" {
				t.Errorf("code %d, apt-get was given %q, said:\n%s", code, apt, said)
			}
		})
	}
}
