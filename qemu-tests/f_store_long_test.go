//go:build vm && long

package qemutests

import (
	"strconv"
	"testing"

	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// The candidates for the store under Raft (docs/adr/0002) in the same faults. What the
// others do badly is told and is no failure of the product; ours must lose nothing.
func TestStoresOnBadDisks(t *testing.T) {
	for _, kind := range []string{"ours", "wal", "bolt"} {
		for _, batch := range []int{1, 64} {
			t.Run(kind+"-"+strconv.Itoa(batch), func(t *testing.T) {
				stopwatch(t)
				b := newStoreBench(t, kind, strconv.Itoa(batch))
				b.powerCuts(5)
				b.diskError(true)
				b.diskError(false)
				b.diskError(true)
				b.diskError(false)
				b.hang()
				b.finish()
			})
		}
	}
}

// How many entries a second each takes, each batch flushed, on the same disk.
func TestStoreRates(t *testing.T) {
	for _, kind := range []string{"ours", "wal", "bolt"} {
		stopwatch(t)
		w := startWriter(t, []*vm.BadDisk{newMedium(t, 512).insert(vm.BadDiskConfig{})}, "rate", kind)
		for line := ""; line != "down"; {
			line = w.waitAny(within(t, 60), "rate", "down", "probe: ")
			t.Log(line)
		}
		w.Kill()
	}
}
