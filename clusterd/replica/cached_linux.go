package replica

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// dropCached makes the kernel read a file from its medium the next time.
func dropCached(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("forget cached pages of %s: %w", path, err)
	}
	return nil
}
