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
		put(t, root, "proc/"+pid+"/oom_score_adj", map[bool]string{true: "500\n", false: "-999\n"}[pid >= "40"])
	}
	for file, text := range map[string]string{
		"init/memory.min": "5\n", "init/memory.max": "max\n", "system/memory.min": "9", "system/noded/memory.min": "40", "system/isolated/memory.min": "7",
		"tasks/memory.min": "0", "tasks/memory.max": "1000", "tasks/memory.events": "low 0\noom 5\noom_kill 3\noom_group_kill 1\n",
	} {
		put(t, root, "sys/fs/cgroup/"+file, text)
	}
	put(t, root, "proc/60/cgroup", "0::/\n") // gone before its memory was read
	put(t, root, "proc/version", "Linux")

	got, err := Observe(root)
	if err != nil {
		t.Fatal(err)
	}
	const kib = 1024
	want := Machine{Total: 1000 * kib, Available: 600 * kib, Groups: []Group{
		{Name: "init", Processes: 1, PSS: 10 * kib, Anonymous: 4 * kib, Resident: 12 * kib, Kept: 5, LowestScore: -999, HighestScore: -999},
		{Name: "isolated", Processes: 2, PSS: 31 * kib, Anonymous: 10 * kib, Resident: 37 * kib, Kept: 7, LowestScore: -999, HighestScore: -999},
		{Name: "noded", Processes: 1, PSS: 20 * kib, Anonymous: 8 * kib, Resident: 24 * kib, Kept: 9, LowestScore: -999, HighestScore: -999},
		{Name: "none", Processes: 1, PSS: 7 * kib, Anonymous: 7 * kib, Resident: 7 * kib, LowestScore: 500, HighestScore: 500},
		{Name: Tasks, Processes: 2, PSS: 42 * kib, Anonymous: 3 * kib, Resident: 51 * kib, Max: 1000, OOMKills: 3, LowestScore: 500, HighestScore: 500},
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
