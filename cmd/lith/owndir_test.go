package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mesolith/mesolith/provision/pki"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUpTakesNoDirectoryOfSomebodyElse(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "cluster.yaml"), "my own, of weeks ago")
	if _, err := claimDir(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "holds cluster.yaml, which no `lith up` has made") {
		t.Errorf("a directory with the user's own cluster file: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestADirectoryIsHeldOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	synctest.Test(t, func(t *testing.T) { // where waiting takes no time
		lock, err := claimDir(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the directory: %v, %v", info, err)
		}
		if _, err := claimDir(t.Context(), dir); !errors.Is(err, errBusy) {
			t.Errorf("held twice: %v", err)
		}
		var out bytes.Buffer
		if err := down(t.Context(), dir, false, &out); err == nil || !strings.Contains(err.Error(), "just starting") {
			t.Errorf("down while up prepares: %v, %q", err, out.String())
		}
		lock.Close()
		again, err := claimDir(t.Context(), dir)
		if err != nil {
			t.Fatalf("after its end: %v", err)
		}
		defer again.Close()
		if _, err := removeOurs(dir); err != nil {
			t.Fatal(err)
		}
		if err := stillThere(again, filepath.Join(dir, lockFile)); !errors.Is(err, errBusy) {
			t.Errorf("a lock that was removed is no lock: %v", err)
		}
	})
}

// What a user has put into a cluster's directory is not ours to remove.
func TestDownKeepsWhatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	for name, value := range map[string]any{planFile: clusterPlan{Name: "t"}, supervisorFile: supervisorNote{Machines: map[string]vm.Process{}}} {
		if err := writeJSON(filepath.Join(dir, name), value); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(dir, "notes.txt"), "what I have measured")
	var out bytes.Buffer
	if err := down(t.Context(), dir, false, &out); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "notes.txt" || !strings.Contains(out.String(), "holds notes.txt besides") {
		t.Errorf("left %v, %v; said %q", left, err, out.String())
	}
}

// A supervisor that ends lets its directory go a moment after it can be seen no more.
func TestADirectoryIsWaitedFor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	synctest.Test(t, func(t *testing.T) {
		lock, err := claimDir(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			lock, err := claimDir(t.Context(), dir)
			if err == nil {
				err = lock.Close()
			}
			done <- err
		}()
		synctest.Wait() // it waits
		lock.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A wrong cluster file stops `lith up` before anything is made.
func TestUpWithABadFileChangesNothing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cluster.yaml")
	writeFile(t, file, "apiVersion: v1\ncluster: demo\nmasters: 2\nnodes: [{name: a}, {name: b}]\n")
	_, err := draftCluster(upOptions{file: file, dir: filepath.Join(dir, "cluster")}, vm.AccelTCG)
	if err == nil || !strings.Contains(err.Error(), file+":3:10: masters: 2 — an even number") {
		t.Errorf("error %v", err)
	}
	_, err = draftCluster(upOptions{nodes: 99, dir: filepath.Join(dir, "cluster")}, vm.AccelTCG)
	if err == nil || !strings.Contains(err.Error(), "1 to 50") {
		t.Errorf("99 nodes: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A directory that an earlier cluster has left serves a cluster of another name too; the
// same one keeps its keys.
func TestSecretsOfALeftDirectory(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "cluster")
	draftOf := func(o upOptions) draft {
		t.Helper()
		o.dir = own
		d, err := draftCluster(o, vm.AccelTCG)
		if err != nil {
			t.Fatal(err)
		}
		lock, err := claimDir(t.Context(), own)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if err := d.write(own, d.plan, &bytes.Buffer{}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := draftOf(upOptions{nodes: 1})
	if same := draftOf(upOptions{nodes: 3}); same.secrets.ClusterID != first.secrets.ClusterID || !same.unsaved {
		t.Errorf("the same cluster, larger: id %s after %s", same.secrets.ClusterID, first.secrets.ClusterID)
	}
	file := filepath.Join(dir, "other.yaml")
	text, err := cluster.GeneratedFile("other", 1)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, text)
	draftOf(upOptions{file: file})
	kept, err := pki.Load(filepath.Join(own, secretsFile))
	if err != nil || kept.Cluster != "other" {
		t.Errorf("secrets of %v, %v", kept, err)
	}
	entries, err := os.ReadDir(own)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestProgressShowsWhatAConsoleSaysAsText(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.show(event{At: 1.25, Node: "n1", Kind: eventTrouble, Text: "bad \x1b[2Jname\r — ü"})
	p.show(event{At: 2, Node: "n1", Kind: eventPhase, Text: "mounts 0.41s ok"})
	p.show(event{At: 3, Kind: eventReady, Text: "1 of 1 nodes"})
	p.finish()
	want := "   1.2 s  n1 bad ?[2Jname? — ü\n   2.0 s  n1 phase mounts 0.41s ok\n   3.0 s  ready: 1 of 1 nodes\n"
	if out.String() != want {
		t.Errorf("shown:\n%q, want\n%q", out.String(), want)
	}
}

func TestExitCodes(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		code int
		said string
	}{
		{t.Context(), nil, 0, ""},
		{t.Context(), exitError{7}, 7, ""},
		{t.Context(), errors.New("no"), 1, "lith: no\n"},
		{interrupted, errors.Join(errors.New("ask"), context.Canceled), 130, "lith: interrupted\n"},
		{interrupted, errors.New("the disk is full"), 1, "lith: the disk is full\n"},
	} {
		var said bytes.Buffer
		if code := exitCode(c.ctx, &said, c.err); code != c.code || said.String() != c.said {
			t.Errorf("%v: code %d, said %q", c.err, code, said.String())
		}
	}
}

func TestAClusterThatHasDiedIsCalledSo(t *testing.T) {
	dir, _ := closedCluster(t)
	dead := sleeper(t)
	dead.Start += "0" // its number is somebody else's now
	if err := writeJSON(filepath.Join(dir, supervisorFile), supervisorNote{Supervisor: dead}); err != nil {
		t.Fatal(err)
	}
	r := lith(t.Context(), "status", "--cluster", dir)
	if !errors.Is(r.err, errNotRunning) || !strings.Contains(r.err.Error(), "lith down --cluster "+dir) {
		t.Errorf("a dead supervisor: %v\n%s", r.err, r.out)
	}
}
