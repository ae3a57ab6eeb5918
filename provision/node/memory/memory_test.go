package memory

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func put(t *testing.T, root, path, text string) {
	t.Helper()
	at := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func rollup(pss, anon, rss string) string {
	return "00400000-7ffc000 ---p 00000000 00:00 0    [rollup]\nRss: " + rss + " kB\nPss: " + pss + " kB\nPss_Dirty: 9 kB\nPss_Anon: " + anon + " kB\n"
}

func TestObserve(t *testing.T) {
	root := t.TempDir()
	put(t, root, "proc/meminfo", "MemTotal:  1000 kB\nMemFree: 5 kB\nMemAvailable: 600 kB\nHugePages_Total: 0\n")
	for pid, p := range map[string][2]string{
		"1":  {"0::/init\n", rollup("10", "4", "12")},
		"20": {"0::/system/noded\n", rollup("20", "8", "24")},
		"30": {"0::/system/isolated\n", rollup("30", "9", "36")},
		"31": {"0::/system/isolated\n", rollup("1", "1", "1")}, // a plugin at work
		"40": {"0::/tasks/c1\n", rollup("40", "1", "48")},
		"41": {"0::/tasks/c2/inner\n", rollup("2", "2", "3")},
		"50": {"0::/\n", rollup("7", "7", "7")},
	} {
		put(t, root, "proc/"+pid+"/cgroup", p[0])
		put(t, root, "proc/"+pid+"/smaps_rollup", p[1])
	}
	put(t, root, "proc/60/cgroup", "0::/\n") // gone before its memory was read
	put(t, root, "proc/version", "Linux")

	got, err := Observe(root)
	if err != nil {
		t.Fatal(err)
	}
	const kib = 1024
	want := Machine{Total: 1000 * kib, Available: 600 * kib, Groups: []Group{
		{"init", 1, 10 * kib, 4 * kib, 12 * kib},
		{"isolated", 2, 31 * kib, 10 * kib, 37 * kib},
		{"noded", 1, 20 * kib, 8 * kib, 24 * kib},
		{"none", 1, 7 * kib, 7 * kib, 7 * kib},
		{Tasks, 2, 42 * kib, 3 * kib, 51 * kib},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestUnreadable: a sum that leaves a process out would be a lie.
func TestUnreadable(t *testing.T) {
	root := t.TempDir()
	put(t, root, "proc/meminfo", "MemTotal:  1000 kB\n")
	put(t, root, "proc/1/cgroup", "0::/init\n")
	put(t, root, "proc/1/smaps_rollup/is-a-directory", "")
	if m, err := Observe(root); err == nil {
		t.Errorf("no error, but %+v", m)
	}
}

// TestOwnMachine reads this process as the kernel shows it.
func TestOwnMachine(t *testing.T) {
	fields, err := fieldsOf("/proc/self/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	if fields["Pss"] == 0 || fields["Pss_Anon"] == 0 || fields["Rss"] < fields["Pss"] {
		t.Errorf("%v", fields)
	}
}
