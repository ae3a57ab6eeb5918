// Package pstore is what a node remembers over a reboot without a disk: the records that
// the kernel kept of a crash, and the times of the last boots in one EFI variable, so
// that a fault at boot does not make the machine boot as fast as it can for ever.
//
// Invariant: nothing here is needed for a boot; a machine without EFI (or whose firmware
// refuses) boots as if it had never booted before.
//
// The records become a log, crash, which noded shows as it shows those of the programs.
package pstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
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

const (
	dir       = "/sys/fs/pstore"
	keep      = 16 // records that stay with the firmware; its place is small
	maxRecord = 256 << 10
	maxLog    = 2 << 20
)

// Collect writes the records that the kernel kept of crashes to a log, oldest first, and
// says how many there are. The newest stay where they are, for another reboot; the oldest
// beyond them are erased, because a store that is full keeps nothing new.
func Collect(log string) (int, error) { return collect(dir, log) }

func collect(dir, log string) (int, error) {
	list, err := os.ReadDir(dir)
	if err != nil || len(list) == 0 {
		return 0, nil // a machine without such a store has no records
	}
	when := map[string]time.Time{}
	for _, e := range list {
		if info, err := e.Info(); err == nil {
			when[e.Name()] = info.ModTime()
		}
	}
	slices.SortStableFunc(list, func(a, b fs.DirEntry) int { return when[a.Name()].Compare(when[b.Name()]) })
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return len(list), fmt.Errorf("keep records of a crash: %w", err)
	}
	defer out.Close()
	var errs []error
	written := 0
	for i, e := range list {
		path := dir + "/" + e.Name()
		text, err := record(path)
		if err == nil && written+len(text) <= maxLog {
			_, err = fmt.Fprintf(out, "record %s of %s\n%s\n", e.Name(), when[e.Name()].UTC().Format(time.RFC3339), text)
			written += len(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("keep record of a crash: %w", err))
			continue
		}
		if i < len(list)-keep {
			errs = append(errs, os.Remove(path))
		}
	}
	return len(list), errors.Join(errs...)
}

func record(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRecord))
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
