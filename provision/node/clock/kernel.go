package clock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is this machine's clock.
type Kernel struct{}

// Now tells the time.
func (Kernel) Now() time.Time { return time.Now() }

// Step sets the clock.
func (Kernel) Step(to time.Time) error {
	ts := unix.NsecToTimespec(to.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}

// Slew lets the kernel make up for an offset over time.
func (Kernel) Slew(by time.Duration) error {
	const singleShot = 0x8001 // ADJ_OFFSET_SINGLESHOT: old adjtime(3), microseconds
	if _, err := unix.Adjtimex(&unix.Timex{Modes: singleShot, Offset: by.Microseconds()}); err != nil {
		return fmt.Errorf("slew clock: %w", err)
	}
	return nil
}
