package identity

import (
	"os"
	"path/filepath"
	"testing"
)

func machine(t *testing.T, serial string, cards ...string) string {
	t.Helper()
	root := t.TempDir()
	put := func(path, text string) {
		at := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("sys/class/dmi/id/product_serial", serial)
	for i, mac := range cards {
		name := "sys/class/net/eth" + string(rune('0'+i))
		put(name+"/address", mac)
		put(name+"/device/x", "")
	}
	put("sys/class/net/cni0/address", "02:00:00:00:00:99")
	put("sys/class/net/lo/address", "00:00:00:00:00:00")
	return root
}

func TestHash(t *testing.T) {
	a := Read(machine(t, "S1\n", "52:54:00:00:00:02\n", "52:54:00:00:00:01\n"))
	b := Read(machine(t, "S1", "52:54:00:00:00:01", "52:54:00:00:00:02"))
	if a.Hash() != b.Hash() || len(a.MACs) != 2 {
		t.Errorf("the order of cards changes the hash: %+v, %+v", a, b)
	}
	if c := Read(machine(t, "S2", "52:54:00:00:00:01", "52:54:00:00:00:02")); c.Hash() == a.Hash() {
		t.Error("another serial number has the same hash")
	}
}

func TestPlaceholdersDoNotCount(t *testing.T) {
	for _, s := range []string{"To be filled by O.E.M.", "Default string", "0", "0000-0000", "None", "", "Not Specified"} {
		if m := Read(machine(t, s)); m.Serial != "" {
			t.Errorf("%q counts as a serial number", s)
		}
	}
}
