// Package pstore is what a node remembers over a reboot without a disk: the records that
// the kernel kept of a crash, and the times of the last boots in one EFI variable, so
// that a fault at boot does not make the machine boot as fast as it can for ever.
//
// Invariant: nothing here is needed for a boot; a machine without EFI (or whose firmware
// refuses) boots as if it had never booted before.
//
// The records are shown by noded, from /sys/fs/pstore.
package pstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	efivars  = "/sys/firmware/efi/efivars"
	variable = efivars + "/MesolithBoots-6d65736f-6c69-7468-8000-000000000001"
	// attributes: non-volatile, boot service and run-time access
	attributes = 7
	immutable  = 0x10 // FS_IMMUTABLE_FL

	// Window and Many say when a machine boots too often: the third time in five minutes.
	Window = 5 * time.Minute
	Many   = 3
	// Pause is how long such a boot waits.
	Pause = time.Minute
)

// ErrNoMemory says that this machine has no place to remember boots in.
var ErrNoMemory = errors.New("no EFI variables on this machine")

// Records counts the crash records that the kernel kept.
func Records() int {
	list, err := os.ReadDir("/sys/fs/pstore")
	if err != nil {
		return 0
	}
	return len(list)
}

// Boot remembers this boot and says how long it should wait.
func Boot(now time.Time) (time.Duration, error) {
	if _, err := os.Stat("/sys/firmware/efi"); err != nil {
		return 0, ErrNoMemory
	}
	err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return 0, fmt.Errorf("mount efivarfs: %w", err)
	}
	raw, err := os.ReadFile(variable)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("read boots: %w", err)
	}
	boots, wait := next(parse(raw), now)
	return wait, write(boots)
}

// parse reads the attributes and up to Many times in seconds; anything else is no boot.
func parse(raw []byte) []time.Time {
	if len(raw) < 4 || (len(raw)-4)%8 != 0 || len(raw) > 4+8*Many {
		return nil
	}
	var out []time.Time
	for b := raw[4:]; len(b) > 0; b = b[8:] {
		out = append(out, time.Unix(int64(binary.LittleEndian.Uint64(b)), 0))
	}
	return out
}

// next adds a boot and says how long to wait when the last Many are within Window.
func next(boots []time.Time, now time.Time) ([]time.Time, time.Duration) {
	boots = append(boots, now)
	if len(boots) > Many {
		boots = boots[len(boots)-Many:]
	}
	first := boots[0]
	if len(boots) == Many && !first.After(now) && now.Sub(first) < Window {
		return boots, Pause
	}
	return boots, 0
}

func write(boots []time.Time) error {
	raw := binary.LittleEndian.AppendUint32(nil, attributes)
	for _, b := range boots {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(b.Unix()))
	}
	// The kernel makes variables immutable, so that nobody deletes them by mistake.
	if file, err := os.Open(variable); err == nil {
		flags, err := unix.IoctlGetInt(int(file.Fd()), unix.FS_IOC_GETFLAGS)
		if err == nil {
			err = unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
		}
		file.Close()
		if err != nil {
			return fmt.Errorf("unlock boots: %w", err)
		}
	}
	file, err := os.OpenFile(variable, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write boots: %w", err)
	}
	defer file.Close()
	if _, err := file.Write(raw); err != nil { // one write: the firmware sees it whole
		return fmt.Errorf("write boots: %w", err)
	}
	return nil
}
