package modules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// compressed tells finit_module that the kernel is to unpack the file.
const compressed = 4

// Loader gives modules to the kernel. Its methods may be called from any goroutine.
type Loader struct {
	table  *Table
	denied map[string]bool
	params func(name, file string) string

	mu     sync.Mutex
	loaded map[string]bool  // by this Loader or before it
	failed map[string]error // not tried again
	seen   map[string]bool  // modaliases looked at
	count  int
	slow   struct {
		name string
		took time.Duration
	}
}

// Config says what a Loader may load and with which parameters.
type Config struct {
	Table  *Table
	Denied []string // never loaded, whatever device asks
}

// NewLoader gives a loader; modules that are in the kernel already count as loaded.
func NewLoader(c Config) *Loader {
	l := &Loader{table: c.Table, denied: map[string]bool{}, params: parameters, loaded: map[string]bool{}, failed: map[string]error{}, seen: map[string]bool{}}
	for _, d := range c.Denied {
		l.denied[normal(d)] = true
	}
	raw, err := os.ReadFile("/proc/modules")
	if err != nil {
		return l
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 0 {
			l.loaded[normal(f[0])] = true
		}
	}
	return l
}

// parameters are what a module needs besides what the boot list says.
func parameters(name, file string) string {
	if strings.Contains(file, "/drivers/watchdog/") && name != "watchdog" {
		return "nowayout=1"
	}
	return ""
}

// Summary says how many modules this Loader has loaded and which took longest.
func (l *Loader) Summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d modules loaded, slowest %s %.2fs", l.count, l.slow.name, l.slow.took.Seconds())
}

// Load loads a module by name or alias, with all it needs.
func (l *Loader) Load(name, params string) error {
	names := l.table.Resolve(name)
	if len(names) == 0 {
		return fmt.Errorf("load module %s: not in this image", name)
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, l.load(n, params))
	}
	return errors.Join(errs...)
}

func (l *Loader) load(name, params string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.denied[name] || l.loaded[name] {
		return nil
	}
	if err := l.failed[name]; err != nil {
		return err
	}
	steps, err := l.table.Closure(name, func(n string) bool { return l.loaded[n] })
	if err != nil {
		l.failed[name] = fmt.Errorf("load module %s: %w", name, err)
		return l.failed[name]
	}
	for _, s := range steps {
		own := l.params(s.Name, s.File)
		if s.Name == name && params != "" {
			own = params
		}
		start := time.Now()
		err := insert(s.File, own)
		if took := time.Since(start); took > l.slow.took {
			l.slow.name, l.slow.took = s.Name, took
		}
		if err != nil && s.Soft {
			continue
		}
		if err != nil {
			l.failed[name] = fmt.Errorf("load module %s: insert %s: %w", name, s.Name, err)
			return l.failed[name]
		}
		l.loaded[s.Name] = true
		l.count++
	}
	return nil
}

func insert(path, params string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = compressed
	}
	err = unix.FinitModule(fd, params, flags)
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("a symbol or a soft dependency is missing: %w", err)
	}
	return err
}

// Device loads what a device with this modalias asks for. Most devices ask for nothing.
func (l *Loader) Device(modalias string) error {
	l.mu.Lock()
	known := l.seen[modalias]
	l.seen[modalias] = true
	l.mu.Unlock()
	if known {
		return nil
	}
	var errs []error
	for _, m := range l.table.Match(modalias) {
		if err := l.load(m, ""); err != nil && !absent(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// absent reports whether a driver only found no hardware or firmware of its own.
func absent(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
}

// Devices calls do with the modalias of every device below root, /sys/devices on a node.
func Devices(root string, do func(modalias string) error) error {
	var errs []error
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" {
			return nil // devices come and go during the walk
		}
		raw, err := os.ReadFile(path)
		if alias := strings.TrimSpace(string(raw)); err == nil && alias != "" {
			errs = append(errs, do(alias))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// BootList loads the modules that no device asks for, in the order of the file: a name
// and its parameters a line. Every failure is reported, none stops the rest.
func (l *Loader) BootList(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open boot list: %w", err)
	}
	defer file.Close()
	var errs []error
	err = eachLine(file, func(f []string) {
		if err := l.Load(f[0], strings.Join(f[1:], " ")); err != nil && !absent(err) {
			errs = append(errs, err)
		}
	})
	return errors.Join(append(errs, err)...)
}

// Lock makes the kernel refuse every further module until the next boot.
func Lock() error {
	if err := os.WriteFile("/proc/sys/kernel/modules_disabled", []byte("1\n"), 0); err != nil {
		return fmt.Errorf("forbid loading modules: %w", err)
	}
	return nil
}
