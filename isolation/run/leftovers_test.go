package run

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// onTmpfs puts a keeper's directories on a small tmpfs, as a node in RAM mode has them.
func onTmpfs(t *testing.T, bytes int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("t", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Where files are memory, what ended tasks leave never is more than its share, not even
// for a moment after the end was told: the kernel would take it from tasks that live.
func TestLeftoversAreWithinTheirShare(t *testing.T) {
	const size = 16 << 20
	h := newHouseIn(t, onTmpfs(t, size))
	most, err := h.k.sandboxesMay()
	if err != nil || most != size/sandboxShare {
		t.Fatalf("%d bytes for sandboxes, %v", most, err)
	}
	used := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(h.dir, &st); err != nil {
			t.Fatal(err)
		}
		return (st.Blocks - st.Bfree) * uint64(st.Bsize)
	}
	var worst uint64
	for i := range 12 {
		id := fmt.Sprint("c", i)
		h.launch(launchOf(id, `echo said; head -c 1500000 /dev/zero > big`))
		h.until(id, gone)
		worst = max(worst, used())
	}
	if worst > most+1<<20 {
		t.Errorf("ended tasks took %d bytes, of %d that they may", worst, most)
	}
	// What is too large by itself keeps its output.
	h.launch(launchOf("huge", `echo said; head -c 3000000 /dev/zero > big`))
	c := h.until("huge", gone)
	if got := h.output(c, "stdout"); got != "said\n" {
		t.Errorf("its output is %q", got)
	}
	if _, err := os.Stat(filepath.Join(c.GetSandbox(), "big")); err == nil {
		t.Error("its files are still there")
	}
}
