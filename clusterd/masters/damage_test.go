package masters

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mesolith/mesolith/internal/wholefile"
)

// A master that cannot read one of its files takes no part and says why, while the others
// go on; it neither founds nor joins anything as if it were new. With the file as it was
// it comes back by itself.
func TestAMasterThatCannotReadItsFilesTakesNoPart(t *testing.T) {
	spoil := map[string]func([]byte) []byte{
		"cut":   func(raw []byte) []byte { return raw[:len(raw)-1] },
		"bit":   func(raw []byte) []byte { raw[len(raw)-2] ^= 1; return raw },
		"empty": func([]byte) []byte { return nil },
		"zeros": func(raw []byte) []byte { return make([]byte, len(raw)) },
		"newer": func(raw []byte) []byte { return []byte(strings.Replace(string(raw), " 1 ", " 2 ", 1)) },
	}
	fired := 0
	for _, file := range []string{"epoch", "promise", "hardware", "g-*/generation", "g-*/origin", "g-*/wal/meta", "g-left/position"} {
		for how, change := range spoil {
			t.Run(strings.ReplaceAll(file, "/", " ")+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { takesNoPart(t, file, change) })
			})
			fired++
		}
	}
	t.Logf("%d damages", fired)
}

func takesNoPart(t *testing.T, file string, change func([]byte) []byte) {
	s := newSite(t, true, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	s.write("first")
	s.everywhere("first")
	s.off("m3")
	dir := s.dirs["m3"]
	writeOptional(t, dir)
	found, err := filepath.Glob(filepath.Join(dir, file))
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s: %v", file, err)
	}
	path := found[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change([]byte(string(whole))), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start("m3")
	s.eventually("the reason", func() bool {
		st, _ := s.on["m3"].m.Status()
		return strings.Contains(st.Why, "it takes no part while its files cannot be read") && strings.Contains(st.Why, path)
	})
	s.write("second") // the others are a majority
	if s.on["m3"].notes.has("second") {
		t.Error("it follows though it cannot know what it is bound to")
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s.everywhere("second")
}

// ofReplica is the kind of package replica's file.
var ofReplica = wholefile.Kind{Name: "generation", Format: 1}

// writeOptional makes the files that a master has at times only: a promise that has been
// kept, a count of generations left, and a generation of another incarnation.
func writeOptional(t *testing.T, dir string) {
	t.Helper()
	left := filepath.Join(dir, "g-left")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	generation, err := filepath.Glob(filepath.Join(dir, "g-*", "generation"))
	if err != nil || len(generation) != 1 {
		t.Fatalf("%q: %v", generation, err)
	}
	raw, err := ofReplica.Read(generation[0])
	if err != nil {
		t.Fatal(err)
	}
	raw = []byte(strings.Replace(string(raw), "m3/boot1", "m3/boot0", 1))
	err = errors.Join(
		ofReplica.Write(filepath.Join(left, "generation"), raw),
		positionKind.Write(filepath.Join(left, "position"), []byte(`{"generation":{"height":0,"id":"left"},"lastIndex":7}`)),
		epochKind.Write(filepath.Join(dir, "epoch"), []byte("0")),
		hardwareKind.Write(filepath.Join(dir, "hardware"), []byte("{}")),
		promiseKind.Write(filepath.Join(dir, "promise"), []byte("{}")),
	)
	if err != nil {
		t.Fatal(err)
	}
}
