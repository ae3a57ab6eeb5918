package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/provision/node/clock"
	"github.com/mesolith/mesolith/provision/node/lan"
)

// Environment by which init hands over what it opened.
const (
	envListenFDs   = "LISTEN_FDS"
	envListenNames = "LISTEN_FDNAMES"
	envPlanFD      = "MESOLITH_PLAN_FD"

	firstListenFD = 3
	maxListenFDs  = 16
	clusterdUID   = 990
)

// Main is noded on a node. It gives the exit status.
func Main(args []string) int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if len(args) > 0 {
		fmt.Fprintf(os.Stderr, "noded: takes no arguments (got %q); init starts it with %s and %s\n", args, envListenNames, envPlanFD)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cfg, err := nodeConfig(log)
	if err != nil {
		fmt.Fprintln(os.Stderr, "noded:", err)
		return 1
	}
	if err := Run(ctx, cfg); err != nil {
		log.Error("noded ends", "error", err)
		return 1
	}
	return 0
}

func nodeConfig(log *slog.Logger) (Config, error) {
	const stateDir = "/var/lib/mesolith"
	cfg := Config{
		Root: "/", CommandLine: readLine("/", "proc/cmdline"),
		Socket: "/run/mesolith/noded.sock", InitSocket: "/run/mesolith/init.sock",
		SecretDir: "/run/mesolith/secret", LogDir: "/run/mesolith/log", Kmsg: "/dev/kmsg",
		StateDir: stateDir, WorkDir: "/var/lib/mesos",
		StateMounted: func() bool { return mounted(stateDir) },
		LocalUIDs:    []uint32{0, clusterdUID},
		Clock:        clock.Kernel{}, AskTime: clock.AskNTP, Signal: SendSignal,
		HTTP: &http.Client{Timeout: urlDeadline}, Log: log, Console: openConsole(log), Joiner: overNetwork{},
		Network: func(say func(subject, line string), changed func(lan.State)) Network {
			return &lan.Lan{Resolver: "/etc/resolv.conf", Say: say, Changed: changed, Log: log}
		},
	}
	var err error
	if cfg.API, err = inherited(os.Getenv, "node"); err != nil {
		return Config{}, err
	}
	if cfg.Plan, err = planPipe(os.Getenv); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// mounted reports whether something is mounted on a directory.
func mounted(dir string) bool {
	var at, above unix.Stat_t
	if unix.Stat(dir, &at) != nil || unix.Stat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return at.Dev != above.Dev
}

// openConsole opens the console for writing only; a machine without one is no reason to
// stop. It must never become the controlling terminal.
func openConsole(log *slog.Logger) io.Writer {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		log.Warn("no console", "error", err)
		return io.Discard
	}
	return &patient{f, 200 * time.Millisecond}
}

// patient gives up a write that takes too long: a serial console with flow control and
// nobody listening would hold it for ever.
type patient struct {
	f      *os.File
	within time.Duration
}

// Write implements io.Writer.
func (p *patient) Write(b []byte) (int, error) {
	// A device without deadlines refuses them; then the write is as patient as it is.
	_ = p.f.SetWriteDeadline(time.Now().Add(p.within))
	return p.f.Write(b)
}

// inherited finds a listening socket by its name among those that init handed over.
func inherited(env func(string) string, name string) (net.Listener, error) {
	count, err := strconv.Atoi(env(envListenFDs))
	if err != nil || count < 1 || count > maxListenFDs {
		return nil, fmt.Errorf("%s is %q, not a number of sockets; init starts noded", envListenFDs, env(envListenFDs))
	}
	for i, have := range strings.Split(env(envListenNames), ":") {
		if have != name || i >= count {
			continue
		}
		f := os.NewFile(uintptr(firstListenFD+i), name)
		l, err := net.FileListener(f)
		return l, errors.Join(err, f.Close())
	}
	return nil, fmt.Errorf("%s %q names no socket %q", envListenNames, env(envListenNames), name)
}

// planPipe takes the pipe to init; none is there when noded was started again.
func planPipe(env func(string) string) (io.WriteCloser, error) {
	text := env(envPlanFD)
	if text == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < firstListenFD || fd > 1000 {
		return nil, fmt.Errorf("%s is %q, not a file descriptor", envPlanFD, text)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "plan"), nil
}
