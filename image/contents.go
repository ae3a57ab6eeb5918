package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/mesolith/mesolith/image/cpio"
	"github.com/mesolith/mesolith/image/modules"
	"github.com/mesolith/mesolith/image/press"
	"github.com/mesolith/mesolith/image/programs"
)

// Where things lie on a node.
const (
	libDir      = "usr/lib/mesolith"
	cniDir      = libDir + "/cni"
	isolatedDir = libDir + "/isolated" // a directory of its own: libcontainer protects the program it lies in
	binDir      = libDir + "/bin"
	sumsFile    = "etc/mesolith/files.sha256" // before all that is large: whole when the rest is not
)

// Part is a line of the size table.
type Part struct {
	Name   string
	Bytes  int // as it lies in the image
	Packed int // what it adds to the file, as far as it can be told apart
}

// assemble fills the initramfs, packs it and writes the four files.
func (b *build) assemble(ctx context.Context) (Result, error) {
	root := cpio.New()
	b.addSkeleton(root)
	if err := b.addPrograms(root); err != nil {
		return Result{}, err
	}
	b.addModules(root)
	root.File(libDir+"/base.tar.zst", 0o644, b.base.TarZstd)
	root.File("etc/ssl/certs/ca-certificates.crt", 0o644, b.base.Certificates)
	if err := b.addIdentity(root); err != nil {
		return Result{}, err
	}
	root.File(sumsFile, 0o644, checksums(root))

	var raw bytes.Buffer
	if _, err := root.WriteTo(&raw); err != nil {
		return Result{}, err
	}
	packed, err := press.Zstd(ctx, raw.Bytes(), windowLog)
	if err != nil {
		return Result{}, fmt.Errorf("initramfs: %w", err)
	}
	return b.write(ctx, root, raw.Len(), packed)
}

// windowLog lets the programs be told by what they share with one another:
// 8 MB would cost 2 MB of the image. While it unpacks, the kernel needs that
// much memory (32 MB) besides, which is free again before init starts.
const windowLog = 25

func (b *build) addSkeleton(root *cpio.Archive) {
	for _, d := range []string{"dev", "proc", "sys", "run", "mnt", "newroot", "store", "var/lib/mesolith", "var/lib/mesos", "var/log", "etc/mesolith"} {
		root.Dir(d, 0o755)
	}
	root.Dir("root", 0o700)
	root.Dir("tmp", 0o1777)
	root.Link("var/run", "/run")
	// The kernel opens the console before init has mounted /dev.
	root.Device("dev/console", 0o600, 5, 1)
	root.Device("dev/null", 0o666, 1, 3)
	root.Device("dev/kmsg", 0o600, 1, 11)
	for name, text := range map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/nonexistent\nclusterd:x:990:990:clusterd:/var/lib/mesolith:/nonexistent\npull:x:991:991:image pulls:/store:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n",
		"etc/group":         "root:x:0:\nclusterd:x:990:\npull:x:991:\nnogroup:x:65534:\n",
		"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"etc/os-release":    "NAME=Mesolith\nID=mesolith\nVERSION=" + Version + "\nVERSION_ID=" + Version + "\nPRETTY_NAME=\"Mesolith " + Version + "\"\n",
	} {
		root.File(name, 0o644, []byte(text))
	}
}

func (b *build) addPrograms(root *cpio.Archive) error {
	for _, p := range b.programs {
		body, err := os.ReadFile(p.Path)
		if err != nil {
			return fmt.Errorf("add program %s: %w", p.Name, err)
		}
		switch p.Name {
		case "init":
			root.File("init", 0o755, body)
		case "clusterd":
			root.File(binDir+"/clusterd", 0o755, body)
			root.Link(binDir+"/noded", "clusterd")
		case "isolated":
			root.File(isolatedDir+"/isolated", 0o755, body)
		case programs.CNI:
			root.File(cniDir+"/"+programs.CNI, 0o755, body)
			for _, plugin := range programs.Plugins {
				root.Link(cniDir+"/"+filepath.Base(plugin), programs.CNI)
			}
		default:
			return fmt.Errorf("add program %s: it has no place in the image", p.Name)
		}
	}
	return nil
}

func (b *build) addModules(root *cpio.Archive) {
	dir := "lib/modules/" + b.kernel.version + "/"
	for _, m := range b.kernel.chosen {
		root.File(dir+b.kernel.path(m), 0o644, b.kernel.body(m))
	}
	root.File(dir+"modules.dep", 0o644, b.kernel.tables.Dep)
	root.File(dir+"modules.softdep", 0o644, b.kernel.tables.Softdep)
	root.File(dir+"modules.alias", 0o644, b.kernel.tables.Alias)
	root.File(dir+"modules.builtin", 0o644, b.kernel.builtin)
	var boot strings.Builder
	boot.WriteString("# Loaded by init by name, in this order; a line may go on with parameters.\n")
	for _, name := range modules.Boot {
		if _, ok := b.kernel.chosen[strings.ReplaceAll(name, "-", "_")]; ok {
			boot.WriteString(name + "\n")
		}
	}
	root.File(libDir+"/modules.boot", 0o644, []byte(boot.String()))
}

func (b *build) addIdentity(root *cpio.Archive) error {
	identity := struct {
		Version string `json:"version"`
		Git     string `json:"git"`
		Built   string `json:"built"` // the commit's time, never the clock's
		Kernel  string `json:"kernel"`
	}{Version, b.git, commitTime(b.git, b.Checkout), b.kernel.version}
	raw, err := json.MarshalIndent(identity, "", "  ")
	if err != nil {
		return err
	}
	root.File("etc/mesolith/image.json", 0o644, append(raw, '\n'))
	if b.Anchor == "" {
		return nil
	}
	anchor, err := os.ReadFile(b.Anchor)
	if err != nil {
		return fmt.Errorf("add anchor: %w", err)
	}
	if !json.Valid(anchor) {
		return fmt.Errorf("add anchor: %s is not JSON; lith init writes one", b.Anchor)
	}
	root.File("etc/mesolith/anchor.json", 0o644, anchor)
	return nil
}

// checksums is in the form of sha256sum, so that PID 1 and a person can check
// a node's files alike.
func checksums(root *cpio.Archive) []byte {
	var b bytes.Buffer
	for name, body := range root.Files {
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(body), name)
	}
	return b.Bytes()
}

// parts groups the contents for the size table.
func (b *build) parts(root *cpio.Archive, rawBytes, packedBytes int) []Part {
	groups := map[string][]byte{}
	var order []string
	for name, body := range root.Files {
		group := partOf(name)
		if _, ok := groups[group]; !ok {
			order = append(order, group)
		}
		groups[group] = append(groups[group], body...)
	}
	slices.Sort(order)
	parts := []Part{{"kernel", len(b.kernel.image), len(b.kernel.image)}}
	for _, group := range order {
		packed, err := packFast(groups[group])
		if err != nil {
			packed = len(groups[group])
		}
		parts = append(parts, Part{group, len(groups[group]), packed})
	}
	return append(parts, Part{"initramfs", rawBytes, packedBytes}, Part{"kernel + initramfs", len(b.kernel.image) + rawBytes, len(b.kernel.image) + packedBytes})
}

func packFast(raw []byte) (int, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer e.Close()
	return len(e.EncodeAll(raw, nil)), nil
}

func partOf(name string) string {
	switch {
	case name == "init":
		return "  init"
	case strings.HasPrefix(name, binDir):
		return "  clusterd, noded"
	case strings.HasPrefix(name, isolatedDir):
		return "  isolated"
	case strings.HasPrefix(name, cniDir):
		return "  CNI plugins"
	case strings.HasPrefix(name, "lib/modules/"):
		if strings.HasSuffix(name, ".ko") {
			return "  modules, unpacked"
		}
		return "  modules, packed"
	case strings.HasSuffix(name, "base.tar.zst"):
		return "  base of tasks"
	}
	return "  other files"
}
