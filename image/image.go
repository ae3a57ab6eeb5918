// Package image builds what a machine boots: a kernel and one initramfs with
// init, clusterd, isolated, the CNI plugins, kernel modules and the base file
// system of tasks.
//
// The invariant: the same checkout, lock file and tool chain give the same
// bytes, from any directory, by any user, under any umask and time zone.
// Nothing here needs root, and nothing on the host is changed outside the
// build directory of the checkout. Out of a build come exactly four files;
// what QEMU wants besides goes to build/qemu.
//
// Formats have rooms of their own (deb, cpio, kernel, modules, base, sbom);
// fetching is packages', compiling programs'. This package decides what goes
// where and in which order.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mesolith/mesolith/image/base"
	"github.com/mesolith/mesolith/image/packages"
	"github.com/mesolith/mesolith/image/programs"
)

// Version is the product's.
const Version = "0.1.0"

// CommandLine is what the kernel of a node is started with; node.md's rules
// for it are on from the start. Console and the like are added by who boots.
const CommandLine = "rootfstype=ramfs cryptomgr.notests panic=10 " +
	"lockdown=integrity module.sig_enforce=1 slab_nomerge vsyscall=none debugfs=off " +
	"proc_mem.force_override=never init_on_alloc=1 randomize_kstack_offset=on " +
	// A piece of memory that a reboot leaves alone keeps the last words where the firmware
	// cannot. It begins at 2 MiB, as large pages do: at the next free page it came to lie
	// directly below the kernel's table of pages, with images of some sizes, and was lost at
	// each boot.
	"reserve_mem=256K:2M:mesolith"

// Options say what to build.
type Options struct {
	Checkout string // the source tree
	Out      string // receives vmlinuz, initramfs.zst, manifest.json, SBOM.spdx.json
	Kernel   string // another kernel (bzImage); with Modules
	Modules  string // its module directory, what is below /lib/modules/VERSION
	Anchor   string // a cluster's anchor.json to put into the image
	Release  bool   // pinned packages and tool chain only, clean checkout only
	// Without names programs to leave out, for trying out a part of an image.
	Without []string
	Tell    func(format string, args ...any) // progress, one line a call
}

// Files names the four files of a built image, in the order of the report.
var Files = []string{"vmlinuz", "initramfs.zst", "manifest.json", "SBOM.spdx.json"}

// Result is what a build made.
type Result struct {
	Manifest Manifest
	Parts    []Part // for the size table
	Took     time.Duration
}

// build carries one build's findings from phase to phase.
type build struct {
	Options
	lock     packages.Lock
	store    *packages.Store
	kernel   kernelSet
	base     base.Result
	debs     []packages.File // of the base file system
	programs []programs.Built
	tools    map[string]string
	git      string
}

// ErrRelease is wrapped by what makes a release build refuse.
var ErrRelease = errors.New("a release build refuses")

// Build makes the image. Two builds in one checkout wait for each other.
func Build(ctx context.Context, o Options) (Result, error) {
	began := time.Now()
	b := &build{Options: o}
	if err := b.prepare(); err != nil {
		return Result{}, err
	}
	unlock, err := lockDirectory(ctx, b.cache(), b.Tell)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if err := clearInterrupted(b.cache()); err != nil {
		return Result{}, err
	}
	for _, phase := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"tool chain", b.checkToolchain},
		{"kernel", b.takeKernel},
		{"base file system", b.makeBase},
		{"programs", b.compile},
	} {
		start := time.Now()
		if err := phase.do(ctx); err != nil {
			return Result{}, err
		}
		o.Tell("%-17s %5.1f s", phase.name, time.Since(start).Seconds())
	}
	start := time.Now()
	result, err := b.assemble(ctx)
	if err != nil {
		return Result{}, err
	}
	o.Tell("%-17s %5.1f s", "initramfs", time.Since(start).Seconds())
	result.Took = time.Since(began)
	return result, nil
}

func (b *build) cache() string { return filepath.Join(b.Checkout, "build", "cache") }

func (b *build) prepare() error {
	if (b.Kernel == "") != (b.Modules == "") {
		return errors.New("--kernel and --modules belong together: a kernel loads only modules of its own version")
	}
	// Said now, and not after a minute of building.
	if err := onlyOurs(b.Out); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, dir := range []string{b.cache(), filepath.Join(b.Checkout, "build", "programs"), filepath.Join(b.Checkout, "build", "qemu")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("build image: %w", err)
		}
	}
	var err error
	if b.lock, err = packages.ReadLock(filepath.Join(b.Checkout, "image", "lock.json")); err != nil {
		return err
	}
	b.store, err = packages.Open(b.cache(), b.Release, b.Tell)
	return err
}

// clearInterrupted removes what builds that were killed have left half done. The caller
// holds the directory, so nobody works in it.
func clearInterrupted(cache string) error {
	for _, pattern := range []string{"fetch-*", "unpack-*", "bb-*", "modules/.new-*"} {
		left, err := filepath.Glob(filepath.Join(cache, pattern))
		if err != nil {
			return err
		}
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("clear what an earlier build has left: %w", err)
			}
		}
	}
	return nil
}

// lookAgain is how often a build looks whether another one has ended.
const lookAgain = 200 * time.Millisecond

// lockDirectory holds off other builds in the same checkout, and waits for one that runs.
func lockDirectory(ctx context.Context, dir string, tell func(format string, args ...any)) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if !told {
			tell("another build runs in this checkout: waiting for its end")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another build in %s: %w", dir, ctx.Err())
		case <-tick.C:
		}
	}
}

func (b *build) builder() programs.Builder {
	return programs.Builder{Checkout: b.Checkout, Out: filepath.Join(b.Checkout, "build", "programs"), Cache: b.cache()}
}

// checkToolchain names every difference to the lock file: it explains why two
// machines get different bytes.
func (b *build) checkToolchain(ctx context.Context) error {
	var names []string
	for name := range b.lock.Toolchain {
		names = append(names, name)
	}
	b.tools = b.builder().Toolchain(ctx, names)
	var differ []string
	for _, name := range sorted(b.tools) {
		if b.tools[name] != b.lock.Toolchain[name] {
			have := b.tools[name]
			if have == "" {
				have = "not installed"
			}
			differ = append(differ, fmt.Sprintf("%s is %s, the lock file has %s", name, have, b.lock.Toolchain[name]))
		}
	}
	b.git = gitState(ctx, b.Checkout)
	if b.Release {
		if len(differ) > 0 {
			return fmt.Errorf("%w another tool chain: %s", ErrRelease, strings.Join(differ, "; "))
		}
		if b.git == unknownGit || strings.HasSuffix(b.git, dirtySuffix) {
			return fmt.Errorf("%w a checkout with changes (git says %q): commit them first", ErrRelease, b.git)
		}
	}
	for _, d := range differ {
		b.Tell("tool chain: %s; the image will differ in bytes from one built there", d)
	}
	return nil
}

func (b *build) makeBase(ctx context.Context) error {
	var paths []string
	for _, pin := range b.lock.Base {
		f, err := b.store.Get(ctx, pin)
		if err != nil {
			return err
		}
		b.debs = append(b.debs, f)
		paths = append(paths, f.Path)
	}
	var err error
	b.base, err = base.Build(ctx, paths, b.cache())
	return err
}

// compile builds every program of a node. One that is not in the checkout is
// an error that names it, unless it was left out by name.
func (b *build) compile(ctx context.Context) error {
	builder := b.builder()
	var list []programs.Program
	for _, p := range programs.OnNode {
		if !b.leftOut(p.Name) {
			list = append(list, p)
		}
	}
	if missing := builder.Missing(list); len(missing) > 0 {
		return fmt.Errorf("programs are missing from the checkout: %s", strings.Join(missing, ", "))
	}
	for _, p := range list {
		built, err := builder.Compile(ctx, p)
		if err != nil {
			return err
		}
		b.programs = append(b.programs, built)
	}
	if b.leftOut(programs.CNI) {
		return nil
	}
	cni, err := builder.CompileCNI(ctx)
	b.programs = append(b.programs, cni)
	return err
}

func (b *build) leftOut(name string) bool {
	for _, w := range b.Without {
		if w == name {
			b.Tell("left out on request: %s; this image is for trying out a part only", name)
			return true
		}
	}
	return false
}
