// Package watchdog holds the device that reboots the machine when PID 1 stops feeding it.
//
// Invariant: once opened the device is never closed (it was loaded with nowayout=1), and
// it is fed only from the loops that prove PID 1 works: the phases' and the cruise's.
//
// Which module drives it is modules' business; a machine without any gets softdog.
package watchdog

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	setTimeout = 0xc0045706 // WDIOC_SETTIMEOUT: seconds as an int, in and out
	bootStatus = 0x80045702 // WDIOC_GETBOOTSTATUS: flags as an int
	cardReset  = 0x20       // WDIOF_CARDRESET
)

// Dog is an open watchdog; a nil Dog is none.
type Dog struct{ file *os.File }

// Open opens the first watchdog and starts it.
func Open(timeout time.Duration) (*Dog, error) {
	file, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open watchdog: %w", err)
	}
	d := &Dog{file: file}
	if err := d.SetTimeout(timeout); err != nil {
		// It runs with its own timeout; feeding it once a second is enough for any.
		return d, errors.Join(err, d.Feed())
	}
	return d, d.Feed()
}

// SetTimeout tells the device how long it waits for the next feed.
func (d *Dog) SetTimeout(timeout time.Duration) error {
	if d == nil {
		return nil
	}
	seconds := int(max(timeout/time.Second, 2))
	if err := unix.IoctlSetPointerInt(int(d.file.Fd()), setTimeout, seconds); err != nil {
		return fmt.Errorf("set watchdog to %d s: %w", seconds, err)
	}
	return nil
}

// Bit reports whether this device ended the last boot. Not every device remembers, and
// softdog cannot.
func (d *Dog) Bit() bool {
	if d == nil {
		return false
	}
	flags, err := unix.IoctlGetInt(int(d.file.Fd()), bootStatus)
	return err == nil && flags&cardReset != 0
}

// Feed puts the reboot off.
func (d *Dog) Feed() error {
	if d == nil {
		return nil
	}
	if _, err := d.file.Write([]byte{0}); err != nil {
		return fmt.Errorf("feed watchdog: %w", err)
	}
	return nil
}
