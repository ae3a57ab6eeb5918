package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/google/go-cmp/cmp"

	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/provision/node/identity"
	"github.com/mesolith/mesolith/provision/pki"
)

// cluster has the files of one node.
type cluster struct {
	secrets              *pki.Secrets
	anchor, node, issuer []byte
}

func newCluster(t *testing.T) cluster {
	t.Helper()
	s, err := pki.NewCluster("demo", []string{"m1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	owner, err := s.Owner()
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := s.Anchor()
	if err != nil {
		t.Fatal(err)
	}
	c := cluster{secrets: s}
	if c.anchor, err = anchor.Encode(); err != nil {
		t.Fatal(err)
	}
	secrets, err := s.IssuerSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if c.issuer, err = secrets.Encode(); err != nil {
		t.Fatal(err)
	}
	c.node, err = nodedoc.Seal(nodedoc.Document{
		Format: nodedoc.Format, Cluster: "demo", ClusterID: s.ClusterID, Revision: 1, DocumentHash: strings.Repeat("0", 64),
		Name: "m1", Mode: nodedoc.ModeRAM, Masters: nodedoc.Masters{Version: 1, Names: []string{"m1"}},
		Raft: nodedoc.Raft{HeartbeatMS: 250, StallMS: 1000}, AgentsGraceMS: 15000, API: nodedoc.API{Anonymous: nodedoc.AnonymousNone},
		Networks:        []nodedoc.Network{{Name: "lan", Match: nodedoc.Match{Link: "any-up"}, DHCP: true}},
		RAMStorePercent: 25, Modules: "early", Tasks: nodedoc.Tasks{Image: "base", Report: "container", Pool: "10.88.0.0/16"},
		SignedAt: time.Now().UTC().Truncate(time.Second),
	}, owner)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c cluster) files() map[string][]byte {
	return map[string][]byte{anchorFile: c.anchor, nodeFile: c.node, keyFile: []byte(c.secrets.BootKeys["m1"]), issuerFile: c.issuer}
}

func put(t *testing.T, root, path string, data []byte) {
	t.Helper()
	at := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func firmware(t *testing.T, root string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		put(t, root, filepath.Join(firmwareDir, name, "raw"), data)
	}
}

// stick makes a disk with a FAT file system.
func stick(t *testing.T, root, device, label string, files map[string][]byte) {
	t.Helper()
	const size = 64 << 20
	path := filepath.Join(root, "dev", device)
	put(t, root, "sys/class/block/"+device+"/size", []byte("131072\n"))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	disk, err := file.CreateFromPath(path, size)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	volume, err := fat32.Create(disk, size, 0, 512, label, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		f, err := volume.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func search(cfg Config) (Found, string, error) {
	f, tried, err := Search(context.Background(), cfg)
	var lines []string
	for _, t := range tried {
		lines = append(lines, t.String())
	}
	return f, strings.Join(lines, "\n"), err
}

func TestFirmware(t *testing.T) {
	c, root := newCluster(t), t.TempDir()
	firmware(t, root, c.files())
	f, _, err := search(Config{Root: root})
	if err != nil || f.Source != "fw_cfg" || f.Document.Name != "m1" || len(f.BootKey) == 0 || f.Issuer == nil || !bytes.Equal(f.Node, c.node) {
		t.Fatalf("found %+v: %v", f, err)
	}
}

func TestMediumFollowsWhatIsBroken(t *testing.T) {
	c, other, root := newCluster(t), newCluster(t), t.TempDir()
	files := c.files()
	files[nodeFile] = other.node // of another owner
	firmware(t, root, files)
	stick(t, root, "sdb", Label, c.files())
	stick(t, root, "sda", "BACKUP", other.files())
	put(t, root, "etc/mesolith/anchor.json", c.anchor)
	f, tried, err := search(Config{Root: root})
	if err != nil || f.Source != "medium MESOLITH on sdb" || f.AnchorFrom != "/etc/mesolith/anchor.json" || f.Issuer == nil {
		t.Fatalf("found %+v: %v\n%s", f, err, tried)
	}
	for _, part := range []string{"fw_cfg: node.json (anchor from /etc/mesolith/anchor.json)", "no mesolith.node=URL"} {
		if !strings.Contains(tried, part) {
			t.Errorf("%q is missing in\n%s", part, tried)
		}
	}
}

func TestURL(t *testing.T) {
	c, root := newCluster(t), t.TempDir()
	anchor, err := nodedoc.ParseAnchor(c.anchor)
	if err != nil {
		t.Fatal(err)
	}
	inline, err := anchor.Inline()
	if err != nil {
		t.Fatal(err)
	}
	var asked string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.RawQuery
		_, _ = w.Write(c.node)
	}))
	defer s.Close()
	cfg := Config{
		Root: root, CommandLine: "quiet mesolith.node=" + s.URL + "/node?rack=7 mesolith.anchor=" + inline, HTTP: s.Client(),
		Machine: identity.Machine{UUID: "u1", Serial: "s1", MACs: []string{"52:54:00:00:00:01"}},
	}
	if _, tried, err := search(cfg); !errors.Is(err, ErrNone) || !strings.Contains(tried, "waiting for an address") {
		t.Fatalf("without a network: %v\n%s", err, tried)
	}
	cfg.Network = true
	f, tried, err := search(cfg)
	if err != nil || f.Document.Name != "m1" || len(f.BootKey) > 0 || f.Issuer != nil {
		t.Fatalf("found %+v: %v\n%s", f, err, tried)
	}
	if asked != "mac=52%3A54%3A00%3A00%3A00%3A01&rack=7&serial=s1&uuid=u1" {
		t.Errorf("asked with %s", asked)
	}
	c.node = append(c.node, make([]byte, nodedoc.MaxNodeDocument)...)
	if _, tried, err := search(cfg); err == nil || !strings.Contains(tried, "longer than") {
		t.Errorf("an endless answer: %v\n%s", err, tried)
	}
}

func TestNothing(t *testing.T) {
	c, root := newCluster(t), t.TempDir()
	if _, tried, err := search(Config{Root: root}); !errors.Is(err, ErrNone) || strings.Count(tried, "\n") != 2 {
		t.Errorf("%v\n%s", err, tried)
	}
	files := c.files()
	delete(files, anchorFile)
	firmware(t, root, files)
	if _, tried, err := search(Config{Root: root}); err == nil || !strings.Contains(tried, "no anchor") {
		t.Errorf("without an anchor: %v\n%s", err, tried)
	}
}

// What a server hands out has no key; this machine's own media may.
func TestKeyBesideAURL(t *testing.T) {
	c, root := newCluster(t), t.TempDir()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(c.node) }))
	defer s.Close()
	put(t, root, "etc/mesolith/anchor.json", c.anchor)
	cfg := Config{Root: root, CommandLine: "mesolith.node=" + s.URL, HTTP: s.Client(), Network: true}
	key := c.files()[keyFile]
	firmware(t, root, map[string][]byte{keyFile: []byte("no key")})
	stick(t, root, "sda", Label, map[string][]byte{keyFile: key})
	f, tried, err := search(cfg)
	if err != nil || f.Source != s.URL || !bytes.Equal(f.BootKey, key) {
		t.Fatalf("found %+v: %v\n%s", f, err, tried)
	}
	if !strings.Contains(tried, "fw_cfg: node.key: ") {
		t.Errorf("the broken key is not named in\n%s", tried)
	}
	firmware(t, root, map[string][]byte{keyFile: key})
	if err := os.Remove(filepath.Join(root, "dev", "sda")); err != nil {
		t.Fatal(err)
	}
	if f, _, err := search(cfg); err != nil || !bytes.Equal(f.BootKey, key) {
		t.Errorf("found %+v: %v", f, err)
	}
}

// Windows writes a stick's label into the root directory only.
func TestLabelInTheRootDirectory(t *testing.T) {
	for _, name := range []string{Label, "BACKUP"} {
		root := t.TempDir()
		stick(t, root, "sda", name, map[string][]byte{nodeFile: []byte("x")})
		path := filepath.Join(root, "dev", "sda")
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("NO NAME    "), 71); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{Label: kindFAT}[name]
		if kind, err := probe(path); err != nil || kind != want {
			t.Errorf("label %s: %q, %v", name, kind, err)
		}
	}
}

// What was found is found again when the medium is gone, and only as it was.
func TestKept(t *testing.T) {
	c, root, dir := newCluster(t), t.TempDir(), filepath.Join(t.TempDir(), "document")
	if _, err := Kept(Config{Root: root}, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing was kept: %v", err)
	}
	firmware(t, root, c.files())
	f, _, err := search(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Keep(dir); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Kept(Config{Root: t.TempDir()}, dir)
	if err != nil {
		t.Fatal(err)
	}
	again.AnchorFrom = f.AnchorFrom
	if d := cmp.Diff(f, again); d != "" {
		t.Error(d)
	}
	if info, err := os.Stat(filepath.Join(dir, keyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key is kept with mode %v, %v", info.Mode(), err)
	}
	put(t, dir, nodeFile, newCluster(t).node) // another owner's
	if _, err := Kept(Config{Root: t.TempDir()}, dir); err == nil {
		t.Error("a forged document was believed")
	}
}

// FuzzDisk feeds the heads of foreign disks to the readers of file systems.
func FuzzDisk(f *testing.F) {
	fat := make([]byte, 1024)
	copy(fat[71:], "MESOLITH   FAT32   ")
	fat[510], fat[511] = 0x55, 0xaa
	iso := make([]byte, 17*2048)
	copy(iso[16*2048+1:], "CD001")
	copy(iso[16*2048+40:], "MESOLITH")
	f.Add(fat)
	f.Add(iso)
	f.Fuzz(func(t *testing.T, raw []byte) {
		disk := bytes.NewReader(raw)
		if data, err := readISO(disk, nodeFile, 1024); err == nil && len(data) > 1024 {
			t.Errorf("ISO: %d bytes", len(data))
		}
		volume, err := openFAT(disk)
		if err != nil {
			return
		}
		if dir, err := volume.root(); err == nil {
			_ = volumeName(dir)
		}
		if data, err := volume.read(nodeFile, 1024); err == nil && len(data) > 1024 {
			t.Errorf("FAT: %d bytes", len(data))
		}
	})
}

// TestISO reads what genisoimage and xorriso write: names in capitals with a version.
func TestISO(t *testing.T) {
	c := newCluster(t)
	path := filepath.Join(t.TempDir(), "cd")
	disk := make([]byte, 24*isoSector)
	volume := disk[16*isoSector:]
	copy(volume[1:], "CD001")
	copy(volume[40:], "MESOLITH                        ")
	record := func(at int, name string, lba, size uint32) int {
		length := (33 + len(name) + 1) &^ 1
		disk[at] = byte(length)
		binary.LittleEndian.PutUint32(disk[at+2:], lba)
		binary.LittleEndian.PutUint32(disk[at+10:], size)
		disk[at+32] = byte(len(name))
		copy(disk[at+33:], name)
		return at + length
	}
	binary.LittleEndian.PutUint32(volume[156+2:], 17)
	binary.LittleEndian.PutUint32(volume[156+10:], isoSector)
	at := record(17*isoSector, "CLUSTER.JSO;1", 19, 4)
	record(at, "NODE.JSON;1", 20, uint32(len(c.node)))
	copy(disk[19*isoSector:], "file")
	copy(disk[20*isoSector:], c.node)
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	kind, err := probe(path)
	if err != nil || kind != kindISO {
		t.Fatalf("%q, %v", kind, err)
	}
	for name, want := range map[string]string{nodeFile: string(c.node), clusterFile: "file"} {
		if raw, err := readFromDisk(path, kind, name, 1<<20); err != nil || string(raw) != want {
			t.Errorf("%s: %d bytes, %v", name, len(raw), err)
		}
	}
	if _, err := readFromDisk(path, kind, keyFile, 1<<20); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
