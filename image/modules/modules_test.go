package modules

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// module is a relocatable ELF file with a .modinfo section and nothing else.
func module(fields ...string) []byte {
	modinfo := []byte(strings.Join(fields, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put := func(values ...any) {
		for _, v := range values {
			binary.Write(&b, binary.LittleEndian, v)
		}
	}
	const header = 64
	infoAt, namesAt := uint64(header), uint64(header+len(modinfo))
	sectionsAt := namesAt + uint64(len(names))
	put([]uint16{1, 62}, uint32(1), []uint64{0, 0, sectionsAt}, uint32(0), []uint16{64, 0, 0, 64, 3, 2})
	b.Write(modinfo)
	b.Write(names)
	section := func(name, kind uint32, at, size uint64) {
		put([]uint32{name, kind}, []uint64{0, 0, at, size}, []uint32{0, 0}, []uint64{1, 0})
	}
	section(0, 0, 0, 0)
	section(1, 1, infoAt, uint64(len(modinfo)))
	section(10, 3, namesAt, uint64(len(names)))
	return b.Bytes()
}

func packXZ(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tinyKernel(t testing.TB) fstest.MapFS {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return fstest.MapFS{
		"modules.builtin":                 {Data: []byte("kernel/drivers/virtio/virtio.ko\n")},
		"kernel/fs/ext4/ext4.ko.xz":       {Data: packXZ(t, module("name=ext4", "depends=jbd2,mbcache", "softdep=pre: crc32c", "alias=fs-ext4"))},
		"kernel/fs/jbd2/jbd2.ko":          {Data: module("name=jbd2", "depends=", "vermagic=6.12.1 SMP mod_unload ")},
		"kernel/fs/mbcache.ko":            {Data: module("name=mbcache", "depends=jbd2")},
		"kernel/crypto/crc32c_generic.ko": {Data: module("name=crc32c_generic", "depends=", "alias=crc32c")},
		"kernel/net/nf-odd.ko.zst":        {Data: z.EncodeAll(module("name=nf_odd", "depends=virtio", "softdep=pre: gone post: jbd2"), nil)},
		"kernel/md/dm-crypt.ko":           {Data: module("name=dm_crypt", "depends=")},
		"kernel/arch/aesni-intel.ko":      {Data: module("name=aesni_intel", "depends=", "alias=cpu:type:x86*", "alias=crypto-aes")},
		"kernel/net/broken.ko":            {Data: module("name=broken", "depends=missing")},
		"kernel/net/unwanted.ko":          {Data: []byte("never read")},
	}
}

func open(t testing.TB) *Tree {
	t.Helper()
	tree, err := Open(tinyKernel(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func names(chosen map[string]Module) []string {
	var list []string
	for name := range chosen {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func TestClosureTakesSoftDependenciesToo(t *testing.T) {
	tree := open(t)
	for _, c := range []struct{ wanted, want []string }{
		{[]string{"ext4"}, []string{"crc32c_generic", "ext4", "jbd2", "mbcache"}},
		{[]string{"nf-odd"}, []string{"jbd2", "nf_odd"}},
		{[]string{"virtio"}, nil},
	} {
		chosen, err := tree.Closure(c.wanted)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, names(chosen)); diff != "" {
			t.Errorf("%v: %s", c.wanted, diff)
		}
		if m, ok := chosen["jbd2"]; ok && m.Kernel != "6.12.1" {
			t.Errorf("jbd2 is of kernel %q", m.Kernel)
		}
	}
}

func TestWhatTheKernelLacksIsNamed(t *testing.T) {
	tree := open(t)
	for wanted, want := range map[string]string{
		"no_such": "the kernel has no module no_such",
		"broken":  "module broken needs missing, which the kernel does not have",
	} {
		_, err := tree.Closure([]string{wanted})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", wanted, err, want)
		}
	}
}

func TestTables(t *testing.T) {
	tree := open(t)
	chosen, err := tree.Closure([]string{"ext4", "nf_odd"})
	if err != nil {
		t.Fatal(err)
	}
	tables := tree.WriteTables(chosen, func(m Module) string { return m.Path + m.Packing })
	want := Tables{
		Dep: []byte("kernel/crypto/crc32c_generic.ko:\n" +
			"kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko\n" +
			"kernel/fs/jbd2/jbd2.ko:\n" +
			"kernel/fs/mbcache.ko: kernel/fs/jbd2/jbd2.ko\n" +
			"kernel/net/nf-odd.ko.zst:\n"),
		Softdep: []byte("softdep ext4 pre: crc32c_generic\nsoftdep nf_odd post: jbd2\n"),
		Alias:   []byte("alias crc32c crc32c_generic\nalias fs-ext4 ext4\n"),
	}
	if diff := cmp.Diff(want, tables); diff != "" {
		t.Error(diff)
	}
}

func TestCiphersComeWithTheDisksThatNeedThem(t *testing.T) {
	tree := open(t)
	chosen, err := tree.Closure([]string{"dm_crypt"})
	if err != nil {
		t.Fatal(err)
	}
	tables := tree.WriteTables(chosen, func(m Module) string { return m.Path })
	if got, want := string(tables.Softdep), "softdep dm_crypt pre: aesni_intel\n"; got != want {
		t.Errorf("softdep %q, want %q", got, want)
	}
	if got, want := string(tables.Alias), "alias crypto-aes aesni_intel\n"; got != want {
		t.Errorf("alias %q, want %q: the processor must not ask for it", got, want)
	}
}

func TestTheChoiceNamesNothingTwice(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range slices.Concat(Boot, Virtual, Required, Optional) {
		if seen[name] {
			t.Errorf("%s is listed twice", name)
		}
		seen[name] = true
	}
	if slices.Contains(slices.Concat(Boot, Virtual, Required, Optional), "br_netfilter") {
		t.Error("br_netfilter would send bridged traffic through the firewall a second time")
	}
}

func FuzzParseModule(f *testing.F) {
	f.Add(module("name=x", "depends=a,b", "softdep=pre: c post: d", "alias=pci:v*"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		info, err := ParseModule(raw)
		if err == nil && info.Name == "" {
			t.Fatal("a module without a name")
		}
	})
}
