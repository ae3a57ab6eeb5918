// Package pstore is what a node remembers over a reboot without a disk: the records that
// the kernel kept of how it ended, and the times of the last boots in one EFI variable, so
// that a fault at boot does not make the machine boot as fast as it can for ever.
//
// Invariant: nothing here is needed for a boot; a machine that can keep nothing boots as
// if it had never booted before.
//
// The records become a log, crash, which noded shows as it shows those of the programs;
// what the newest says of the last end becomes one line (Ends). Where they are kept is the
// firmware's business (ERST, EFI's variables) or that of a piece of memory that a reboot
// leaves alone (ramoops); which driver is loaded is main's.
package pstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
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

const (
	dir       = "/sys/fs/pstore"
	keep      = 16 // records that stay with the firmware; its place is small
	maxRecord = 256 << 10
	maxLog    = 2 << 20
)

// Collect writes the records that the kernel kept to a log, oldest first, and gives the
// ends that they tell of, in the same order. Those of the firmware stay where they are, for
// another reboot, but the oldest beyond the newest 16: a store that is full keeps nothing
// new. Those in memory are erased, so that the next boot finds only what is new.
func Collect(log string) ([]End, error) { return collect(dir, log) }

func collect(dir, log string) ([]End, error) {
	list, err := os.ReadDir(dir)
	if err != nil || len(list) == 0 {
		return nil, nil // a machine without such a store has no records
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
		return nil, fmt.Errorf("keep records of a crash: %w", err)
	}
	defer out.Close()
	var ends []End
	var errs []error
	written := 0
	for i, e := range list {
		path := dir + "/" + e.Name()
		kept := !strings.HasPrefix(e.Name(), inMemory)
		text, err := record(path)
		if err == nil {
			text = joined(text)
			ends = merge(ends, when[e.Name()], text, kept)
		}
		if err == nil && written+len(text) <= maxLog {
			_, err = fmt.Fprintf(out, "record %s of %s\n%s\n", e.Name(), when[e.Name()].UTC().Format(time.RFC3339), text)
			written += len(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("keep record of a crash: %w", err))
			continue
		}
		if !kept || i < len(list)-keep {
			errs = append(errs, os.Remove(path))
		}
	}
	return ends, errors.Join(errs...)
}

// inMemory begins the names of records that a reboot leaves and a power cut does not.
const inMemory = "dmesg-ramoops-"

func record(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxRecord))
	return string(raw), err
}

// Boot remembers this boot and says how long it should wait. A machine without EFI goes by
// its records: how many ends in a row nobody had asked for.
func Boot(now time.Time, inRow int) (time.Duration, error) {
	if _, err := os.Stat("/sys/firmware/efi"); err != nil {
		return afterCrashes(inRow), nil
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
