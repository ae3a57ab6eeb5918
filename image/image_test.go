package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/image/cpio"
	"github.com/mesolith/mesolith/image/modules"
)

func TestADirectoryWithOtherFilesIsNoOutput(t *testing.T) {
	dir := t.TempDir()
	for _, name := range Files {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := onlyOurs(dir); err != nil {
		t.Errorf("an earlier image is overwritten: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := onlyOurs(dir); err == nil || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("got %v, want a refusal that names the file", err)
	}
}

func TestAnImageThatWasTamperedWithIsNamed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("vmlinuz", "kernel")
	good := fileOf("vmlinuz", []byte("kernel"))
	write("manifest.json", `{"format":1,"files":[{"path":"vmlinuz","bytes":6,"sha256":"`+good.SHA256+`"}]}`)
	if _, err := ReadManifest(dir); err != nil {
		t.Fatal(err)
	}
	write("vmlinuz", "kernal")
	if _, err := ReadManifest(dir); err == nil || !strings.Contains(err.Error(), "vmlinuz is not the file that the manifest names") {
		t.Errorf("got %v", err)
	}
	if _, err := ReadManifest(t.TempDir()); err == nil || !strings.Contains(err.Error(), "lith image build -o") {
		t.Errorf("got %v, want what to do about it", err)
	}
}

func TestKernelVersionComesFromTheBootHeader(t *testing.T) {
	image := make([]byte, 2048)
	copy(image[0x202:], "HdrS")
	image[0x20e], image[0x20f] = 0x00, 0x03
	copy(image[0x500:], "6.12.117+deb12-amd64 (debian-kernel@lists.debian.org) #1 SMP")
	got, err := kernelVersion(image)
	if err != nil || got != "6.12.117+deb12-amd64" {
		t.Errorf("got %q, %v", got, err)
	}
	for name, bad := range map[string][]byte{"short": image[:100], "no header": make([]byte, 2048), "no version": append(append([]byte{}, image[:0x500]...), make([]byte, 512)...)} {
		if _, err := kernelVersion(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestChecksumsAreInTheFormOfSha256sum(t *testing.T) {
	root := cpio.New()
	root.File("init", 0o755, []byte("hello"))
	root.Link("etc/link", "init")
	want := "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824  init\n"
	if got := string(checksums(root)); got != want {
		t.Errorf("got %q", got)
	}
}

func TestKernelAndModulesGoTogether(t *testing.T) {
	b := &build{Options: Options{Checkout: t.TempDir(), Kernel: "/boot/vmlinuz"}}
	if err := b.prepare(); err == nil || !strings.Contains(err.Error(), "--modules") {
		t.Errorf("got %v", err)
	}
}

// What is wrong with the output is said before anything is built or fetched.
func TestABadOutputIsRefusedAtOnce(t *testing.T) {
	checkout, out := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b := &build{Options: Options{Checkout: checkout, Out: out}}
	if err := b.prepare(); err == nil || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(checkout); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestModulesOfAnotherKernelAreRefused(t *testing.T) {
	k := &kernelSet{version: "6.12.1", chosen: map[string]modules.Module{
		"a": {}, "b": {Info: modules.Info{Kernel: "6.12.1"}}, "c": {Info: modules.Info{Kernel: "6.12.2"}},
	}}
	if err := k.sameVersion("/lib/modules/6.12.2"); err == nil || !strings.Contains(err.Error(), "c is of kernel 6.12.2, and the kernel is 6.12.1") {
		t.Errorf("got %v", err)
	}
	delete(k.chosen, "c")
	if err := k.sameVersion("/lib/modules/6.12.1"); err != nil {
		t.Error(err)
	}
}

func TestAnotherToolChainIsNamed(t *testing.T) {
	var told []string
	b := &build{Options: Options{Checkout: ".", Tell: func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }}}
	b.lock.Toolchain = map[string]string{"go": "go0.9", "no-such-package": "1"}
	if err := b.checkToolchain(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(told, "\n")
	if !strings.Contains(all, "the lock file has go0.9") || !strings.Contains(all, "no-such-package is not installed, the lock file has 1") {
		t.Errorf("told:\n%s", all)
	}
	b.Release = true
	if err := b.checkToolchain(t.Context()); !errors.Is(err, ErrRelease) {
		t.Errorf("a release build: %v", err)
	}
}

func TestBuildsOfOneCheckoutWait(t *testing.T) {
	dir := t.TempDir()
	told := make(chan string, 1)
	tell := func(format string, _ ...any) { told <- format }
	unlock, err := lockDirectory(t.Context(), dir, tell)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error)
	go func() {
		unlock, err := lockDirectory(t.Context(), dir, tell)
		if err == nil {
			unlock()
		}
		second <- err
	}()
	if got := <-told; !strings.Contains(got, "another build") {
		t.Errorf("told %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockDirectory(ctx, dir, func(string, ...any) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted wait: %v", err)
	}
	unlock()
	if err := <-second; err != nil {
		t.Errorf("after the end of the first: %v", err)
	}
}

func TestWhatAKilledBuildLeftIsCleared(t *testing.T) {
	cache := t.TempDir()
	for _, dir := range []string{"fetch-1", "unpack-2/modules", "bb-3", "debs", "kernel-4", "modules"} {
		if err := os.MkdirAll(filepath.Join(cache, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := clearInterrupted(cache); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(cache, "*"))
	if err != nil || len(left) != 3 {
		t.Errorf("left %v, %v: want the packages, the kernel and the modules", left, err)
	}
}
