// Package kmsg is how PID 1 speaks: whole lines into the kernel's log, which carries
// them to every console and, over a panic, into pstore. It also turns the process's
// standard output and error into that log, so that the trace of a Go panic is kept.
//
// Invariant: a line is one record (one write), at most 900 bytes, beginning with
// "mesolith: "; a log that cannot be written never stops anybody.
//
// Programs' output is not written here (supervise keeps it in files), their warnings are.
package kmsg

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const maxLine = 900 // the kernel cuts records at about 1,000 bytes

// Log writes to /dev/kmsg. Its methods may be called from any goroutine.
type Log struct{ file *os.File }

// Open opens the kernel's log and makes it standard output and error. Before /dev is
// there it fails; a nil Log is silent. An error beside a Log is about the console only.
func Open() (*Log, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/kmsg: %w", err)
	}
	for _, std := range []int{1, 2} {
		if err := unix.Dup3(fd, std, 0); err != nil {
			return nil, fmt.Errorf("make /dev/kmsg descriptor %d: %w", std, err)
		}
	}
	return &Log{file: os.NewFile(uintptr(fd), "/dev/kmsg")}, showOnConsole()
}

// Our lines are notices (5), most of the kernel's are information (6): on a kernel that
// was told to be quiet the console shows ours and not those.
const (
	setConsoleLevel = 8 // syslog(2), SYSLOG_ACTION_CONSOLE_LEVEL
	consoleLevel    = 6 // what is shown is below it
)

// showOnConsole makes the console show notices; one that shows more is left alone.
func showOnConsole() error {
	raw, err := os.ReadFile("/proc/sys/kernel/printk")
	if err != nil {
		return fmt.Errorf("ask what the console shows: %w", err)
	}
	var level int
	if _, err := fmt.Sscan(string(raw), &level); err == nil && level >= consoleLevel {
		return nil
	}
	// The call takes the level where others take a buffer's length.
	if _, err := unix.Klogctl(setConsoleLevel, make([]byte, consoleLevel)); err != nil {
		return fmt.Errorf("make the console show notices: %w", err)
	}
	return nil
}

// maxKernelLog is more than the kernel's own log holds.
const maxKernelLog = 512 << 10

// Kernel gives what the kernel has said since it started.
func Kernel() (string, error) {
	const readAll = 3 // syslog(2), SYSLOG_ACTION_READ_ALL
	buf := make([]byte, maxKernelLog)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil {
		return "", fmt.Errorf("read the kernel's log: %w", err)
	}
	return string(buf[:n]), nil
}

// Say writes a line that tells of progress.
func (l *Log) Say(format string, args ...any) { l.write("<5>", format, args) }

// Warn writes a line about something that went wrong.
func (l *Log) Warn(format string, args ...any) { l.write("<4>", format, args) }

func (l *Log) write(level, format string, args []any) {
	if l == nil {
		return
	}
	line := clean(fmt.Sprintf(format, args...))
	l.file.WriteString(level + "mesolith: " + line + "\n") // nobody could be told of a failure
}

// clean makes one printable line of what may come from a program.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7f:
			return -1
		}
		return r
	}, s)
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + " …"
	}
	return strings.TrimRight(s, " ")
}
