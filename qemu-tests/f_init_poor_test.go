//go:build vm

package qemutests

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// A machine with too little memory says so and never hangs in silence: where the kernel
// itself cannot unpack the image it panics and reboots; where init starts, it says how
// much there is and how much is wanted.
func TestTooLittleMemory(t *testing.T) {
	apart(t, 1)
	stopwatch(t)
	for _, c := range []struct {
		memoryMB int
		says     []string // one of these
	}{
		{128, []string{"Kernel panic - not syncing: "}},
		{176, []string{"Kernel panic - not syncing: ", "the image was not unpacked whole", "MiB of memory for programs; a node wants"}},
	} {
		v, err := vm.Start(t.Context(), vm.Config{
			Name: fmt.Sprint("poor", c.memoryMB), Dir: filepath.Join(t.TempDir(), "vm"), Kernel: theLab.image.Kernel, Initramfs: theLab.image.Initramfs,
			Cmdline: theLab.image.Cmdline, Accel: theLab.accel, MemoryMB: c.memoryMB,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Kill)
		var said string
		eventually(t, within(t, toElect), func() error {
			for _, l := range v.Console.Lines(0) {
				for _, text := range c.says {
					if strings.Contains(l.Text, text) {
						said = l.Text
						return nil
					}
				}
			}
			return fmt.Errorf("%d MB: none of %q is said; last:\n%s", c.memoryMB, c.says, v.Console.Tail(5))
		})
		t.Logf("%d MB: %s", c.memoryMB, said)
		v.Kill()
	}
}
