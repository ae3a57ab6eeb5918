//go:build pid1faults

package fault

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/init/phase"
)

// armed points and what they do: "hang" or "panic".
var armed = struct {
	sync.Mutex
	points map[string]string
	say    func(format string, args ...any)
}{points: map[string]string{}, say: func(string, ...any) {}}

// argument is what the kernel was told, by words.
func argument() []string {
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil
	}
	for _, word := range strings.Fields(string(raw)) {
		if list, ok := strings.CutPrefix(word, "mesolith.fault="); ok {
			return strings.Split(list, ",")
		}
	}
	return nil
}

func arm(word string) bool {
	point, what, ok := strings.Cut(word, ":")
	if ok {
		armed.Lock()
		armed.points[point] = what
		armed.Unlock()
	}
	return ok
}

// Phases makes each phase of the boot a point, named phase-NAME.
func Phases(list []phase.Phase) []phase.Phase {
	for _, word := range argument() {
		arm(word)
	}
	for i := range list {
		name, run := list[i].Name, list[i].Run
		list[i].Run = func() error {
			At("phase-" + name)
			return run()
		}
	}
	return list
}

// At is a point that can be made to hang or to panic.
func At(point string) {
	armed.Lock()
	what := armed.points[point]
	say := armed.say
	armed.Unlock()
	switch what {
	case "hang":
		say("fault: %s hangs", point)
		select {}
	case "panic":
		panic("fault injected at " + point)
	}
}

// Serve obeys the host.
func Serve(t Tools) {
	armed.Lock()
	armed.say = t.Say
	armed.Unlock()
	for _, word := range argument() {
		if word == "listen" {
			go serve(t)
		}
	}
}

func serve(t Tools) {
	var port *os.File
	for port == nil { // its driver is on its way
		if found, err := filepath.Glob("/dev/vport*"); err == nil && len(found) > 0 {
			port, err = os.OpenFile(found[0], os.O_RDWR, 0)
			if err != nil {
				t.Say("fault: %v", err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Say("fault: listening")
	for {
		lines := bufio.NewScanner(port)
		for lines.Scan() {
			if err := obey(t, strings.Fields(lines.Text())); err != nil {
				t.Say("fault: %q: %v", lines.Text(), err)
			}
		}
		if err := lines.Err(); err != nil && err != io.EOF {
			t.Say("fault: %v", err)
		}
		time.Sleep(50 * time.Millisecond) // nobody is there
	}
}

func obey(t Tools, words []string) error {
	if len(words) == 0 {
		return nil
	}
	rest := words[1:]
	switch words[0] {
	case "panic":
		go func() { panic("fault injected: a goroutine of PID 1 panics") }()
	case "kill":
		return kill(t, rest)
	case "clock":
		return moveClock(t, rest)
	case "descriptors":
		return descriptors(t, rest)
	case "orphans":
		return orphans(t, rest)
	default:
		if !arm(words[0]) {
			return fmt.Errorf("nothing is known of it")
		}
		t.Say("fault: armed %s", words[0])
	}
	return nil
}

// kill ends programs by their names, as the kernel or a person would.
func kill(t Tools, names []string) error {
	for _, name := range names {
		pid, err := pidOf(name)
		if err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
		t.Say("fault: killed %s, pid %d", name, pid)
	}
	return nil
}

func pidOf(name string) (int, error) {
	found, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, path := range found {
		raw, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(raw)) == name {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, fmt.Errorf("no process %s", name)
}

// moveClock: clock DURATION.
func moveClock(t Tools, words []string) error {
	by, err := time.ParseDuration(strings.Join(words, ""))
	if err != nil {
		return err
	}
	to := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &to); err != nil {
		return err
	}
	t.Say("fault: clock moved by %s to %s", by, time.Now().UTC().Format(time.RFC3339))
	return nil
}

// descriptors: descriptors DURATION [PROGRAM…], which are killed meanwhile.
func descriptors(t Tools, words []string) error {
	if len(words) == 0 {
		return fmt.Errorf("for how long?")
	}
	long, err := time.ParseDuration(words[0])
	if err != nil {
		return err
	}
	var pids []int
	for _, name := range words[1:] {
		pid, err := pidOf(name)
		if err != nil {
			return err
		}
		pids = append(pids, pid)
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 512, Max: before.Max}); err != nil {
		return err
	}
	end := time.Now().Add(long)
	var held []int
	take := func() {
		for {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return
			}
			held = append(held, fd)
		}
	}
	take()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Say("fault: %v", err)
		}
	}
	t.Say("fault: %d descriptors held, none is left", len(held))
	for time.Now().Before(end) { // what is given back meanwhile is taken too
		take()
		time.Sleep(10 * time.Millisecond)
	}
	for _, fd := range held {
		unix.Close(fd)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		return err
	}
	t.Say("fault: %d descriptors given back", len(held))
	return nil
}
