// Package base makes the root file system of tasks that name no image:
// Debian's static busybox with a link for each of its commands, the C and
// C++ run-time libraries that strangers' binaries expect, CA certificates and
// a few files under /etc.
//
// The same packages always give the same bytes: sorted entries, owner root,
// time zero. Documentation is left out but for the copyright files, and so
// are locales other than C.UTF-8 and character set converters. The tree is
// laid out merged (/bin is /usr/bin), wherever a package's own files lie. It
// is only ever a lower layer below a container's own writable one; the node's
// own root holds none of it but the certificates.
package base

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mesolith/mesolith/image/deb"
	"github.com/mesolith/mesolith/image/press"
)

// Result is the packed file system and the bundle of CA certificates that a node adds to
// it when it is laid out.
type Result struct {
	TarZstd      []byte
	Certificates []byte // PEM, one after the other
}

type node struct {
	kind byte // as in tar
	mode int64
	body []byte
	link string
}

type tree map[string]node

// Build makes the file system from package files. One of them must be a
// busybox for this machine: it is asked for the list of its commands.
func Build(ctx context.Context, debs []string, scratch string) (Result, error) {
	t := skeleton()
	var certificates [][]byte
	for _, file := range debs {
		err := deb.Walk(file, func(h *tar.Header, body io.Reader) error {
			if strings.HasPrefix(h.Name, "usr/share/ca-certificates/") && strings.HasSuffix(h.Name, ".crt") {
				raw, err := io.ReadAll(body)
				certificates = append(certificates, raw)
				return err
			}
			return t.take(h, body)
		})
		if err != nil {
			return Result{}, err
		}
	}
	if err := t.addApplets(ctx, scratch); err != nil {
		return Result{}, err
	}
	bundle := joinPEM(certificates)
	if len(bundle) == 0 {
		return Result{}, fmt.Errorf("base file system: no package holds CA certificates")
	}
	t["etc/ssl/certs"] = node{kind: tar.TypeDir, mode: 0o755} // the bundle itself is the node's: the image holds it once
	t.link("etc/ssl/cert.pem", "certs/ca-certificates.crt")
	packed, err := t.pack(ctx)
	return Result{TarZstd: packed, Certificates: bundle}, err
}

func skeleton() tree {
	t := tree{}
	for _, d := range []string{
		"dev", "proc", "sys", "run", "mnt", "srv", "home", "root", "opt", "etc",
		"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local/bin", "var/lib", "var/log", "var/cache",
	} {
		t[d] = node{kind: tar.TypeDir, mode: 0o755}
	}
	t["root"] = node{kind: tar.TypeDir, mode: 0o700}
	t["tmp"] = node{kind: tar.TypeDir, mode: 0o1777}
	t["var/tmp"] = node{kind: tar.TypeDir, mode: 0o1777}
	for _, d := range merged {
		t.link(d, "usr/"+d)
	}
	t.link("var/run", "../run")
	t.file("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"))
	t.file("etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"))
	t.file("etc/shells", []byte("/bin/sh\n/bin/ash\n"))
	t.file("etc/nsswitch.conf", []byte("passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"))
	t.file("etc/protocols", []byte("ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n"))
	t.file("etc/services", []byte("ftp 21/tcp\nssh 22/tcp\ntelnet 23/tcp\nsmtp 25/tcp\ndomain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nntp 123/udp\nhttps 443/tcp\nhttps 443/udp\n"))
	t.file("etc/ld.so.conf", []byte("/usr/local/lib\n/usr/lib/x86_64-linux-gnu\n"))
	t.file("etc/os-release", []byte("NAME=\"Mesolith base\"\nID=mesolith-base\nID_LIKE=debian\nPRETTY_NAME=\"Mesolith base for tasks without an image\"\n"))
	return t
}

var merged = []string{"bin", "sbin", "lib", "lib64"}

func (t tree) file(name string, body []byte) {
	t[name] = node{kind: tar.TypeReg, mode: 0o644, body: body}
}

func (t tree) link(name, target string) {
	t[name] = node{kind: tar.TypeSymlink, mode: 0o777, link: target}
}

// place is where a package's file lies in the merged tree.
func place(name string) string {
	top, rest, found := strings.Cut(name, "/")
	if found && slices.Contains(merged, top) {
		return "usr/" + top + "/" + rest
	}
	return name
}

// unused are libraries of libc6 that no program of a container loads: tools
// for debuggers and profilers, name services nobody runs, and vector
// mathematics (1 MB) that only a compiler told to be inexact asks for.
var unused = []string{
	"libmvec.so.1", "libthread_db.so.1", "libmemusage.so", "libpcprofile.so", "libc_malloc_debug.so.0",
	"libnss_hesiod.so.2", "libnss_compat.so.2", "libnsl.so.1",
}

func wanted(name string) bool {
	if strings.HasPrefix(name, "usr/share/doc/") {
		return path.Base(name) == "copyright"
	}
	for _, drop := range []string{"usr/share/", "etc/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/x86_64-linux-gnu/audit/"} {
		if strings.HasPrefix(name, drop) {
			return false
		}
	}
	if dir, rest, ok := strings.Cut(name, "/locale/"); ok && dir == "usr/lib" {
		return strings.HasPrefix(rest, "C.utf8/")
	}
	if slices.Contains(unused, path.Base(name)) {
		return false
	}
	for _, dir := range []string{"usr/bin/", "usr/sbin/", "usr/lib/", "usr/lib64/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	return false
}

func (t tree) take(h *tar.Header, body io.Reader) error {
	name := place(h.Name)
	if !wanted(name) {
		return nil
	}
	switch h.Typeflag {
	case tar.TypeReg:
		raw, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		t[name] = node{kind: tar.TypeReg, mode: h.Mode & 0o755, body: raw}
	case tar.TypeSymlink:
		t.link(name, h.Linkname)
	case tar.TypeLink:
		original, ok := t[place(strings.TrimPrefix(h.Linkname, "./"))]
		if !ok {
			return fmt.Errorf("hard link %s: its file %s is not there", h.Name, h.Linkname)
		}
		t[name] = original
	}
	return nil
}

// addApplets asks busybox which commands it has and links each to it. Names
// that a package filled already stay.
func (t tree) addApplets(ctx context.Context, scratch string) error {
	const where = "usr/bin/busybox"
	program, ok := t[where]
	if !ok {
		return fmt.Errorf("base file system: no package holds busybox")
	}
	copied := filepath.Join(scratch, "busybox")
	if err := os.WriteFile(copied, program.body, 0o700); err != nil {
		return fmt.Errorf("base file system: %w", err)
	}
	defer os.Remove(copied)
	list, err := exec.CommandContext(ctx, copied, "--list-full").Output()
	if err != nil {
		return fmt.Errorf("base file system: ask busybox for its commands: %w", err)
	}
	for applet := range strings.FieldsSeq(string(list)) {
		if !strings.Contains(applet, "/") || strings.Contains(applet, "..") {
			continue
		}
		name := place(applet)
		if _, taken := t[name]; !taken {
			t.link(name, "/"+where)
		}
	}
	return nil
}

// joinPEM sorts, so that the order of packages does not matter, and separates
// by line ends, which not every certificate file has.
func joinPEM(certificates [][]byte) []byte {
	slices.SortFunc(certificates, bytes.Compare)
	var all bytes.Buffer
	for _, c := range certificates {
		all.Write(bytes.TrimSpace(c))
		all.WriteByte('\n')
	}
	return all.Bytes()
}

// windowLog lets zstd look back over the whole tree, 7.8 MB. Unpacking it takes no more
// memory than the tree has, and never more than this window, 8 MB.
const windowLog = 23

func (t tree) pack(ctx context.Context) ([]byte, error) {
	for _, name := range slices.Collect(maps.Keys(t)) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := t[dir]; !ok {
				t[dir] = node{kind: tar.TypeDir, mode: 0o755}
			}
		}
	}
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, name := range slices.Sorted(maps.Keys(t)) {
		n := t[name]
		h := &tar.Header{Name: name, Typeflag: n.kind, Mode: n.mode, Linkname: n.link, Size: int64(len(n.body)), Format: tar.FormatPAX}
		if n.kind == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("base file system: %s: %w", name, err)
		}
		if _, err := w.Write(n.body); err != nil {
			return nil, fmt.Errorf("base file system: %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("base file system: %w", err)
	}
	packed, err := press.Zstd(ctx, raw.Bytes(), windowLog)
	if err != nil {
		return nil, fmt.Errorf("base file system: %w", err)
	}
	return packed, nil
}
