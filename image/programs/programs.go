// Package programs compiles what runs on a node: init, clusterd and isolated
// from this checkout, and the CNI plugins of containernetworking/plugins as
// one multi-call program.
//
// The same sources and tool chain give the same bytes from any directory, by
// any user: paths are trimmed, build ids and version control stamps left out,
// and of the environment only what finds programs and caches is passed on.
// isolated is the one program with C in it and is linked statically; its bytes
// depend on the host's gcc, binutils, C library and libseccomp, which
// Toolchain names so that a difference can be said.
package programs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// Program is one to be compiled from the checkout.
type Program struct {
	Name    string
	Package string // relative to the checkout, "./init"
	C       bool   // links C libraries statically
}

// OnNode are the programs of a node, in the order of the report.
var OnNode = []Program{
	{Name: "init", Package: "./init"},
	{Name: "clusterd", Package: "./clusterd"},
	{Name: "isolated", Package: "./isolation", C: true},
}

// CNI is the name of the multi-call program of network plugins.
const CNI = "mesolith-cni"

// Plugins are the packages in it, below github.com/containernetworking/plugins.
// Left out are those that run iptables or nft, which the node does not have
// (portmap, firewall: isolated does their work), and dhcp, which needs a
// daemon.
var Plugins = []string{
	"plugins/ipam/host-local", "plugins/ipam/static",
	"plugins/main/bridge", "plugins/main/host-device", "plugins/main/ipvlan",
	"plugins/main/loopback", "plugins/main/macvlan", "plugins/main/ptp", "plugins/main/vlan",
	"plugins/meta/bandwidth", "plugins/meta/tuning",
}

const pluginsModule = "github.com/containernetworking/plugins/"

// Built is a compiled program.
type Built struct {
	Name    string
	Path    string
	Modules []*debug.Module // what is linked into it, the main module left out
	C       bool
}

// Builder compiles from one checkout into one directory.
type Builder struct {
	Checkout string
	Out      string // programs land here
	Cache    string // what is kept between builds
	// Tags are added to those of a node's programs, for what only tests boot.
	Tags []string
}

// Missing names those of the programs whose package is not in the checkout.
func (b Builder) Missing(list []Program) []string {
	var missing []string
	for _, p := range list {
		found, err := filepath.Glob(filepath.Join(b.Checkout, p.Package, "*.go"))
		if err != nil || len(found) == 0 {
			missing = append(missing, p.Package)
		}
	}
	return missing
}

// Compile builds one program for the node.
func (b Builder) Compile(ctx context.Context, p Program) (Built, error) {
	out := filepath.Join(b.Out, p.Name)
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", out}
	cgo := "CGO_ENABLED=0"
	if p.C {
		cgo = "CGO_ENABLED=1"
		args = append(args, "-tags", b.tags("osusergo", "netgo", "runc_nocriu", "seccomp"),
			"-ldflags", `-s -w -buildid= -linkmode external -extldflags "-static -Wl,--build-id=none"`)
	} else {
		args = append(args, "-tags", b.tags("osusergo", "netgo"), "-ldflags", "-s -w -buildid=")
	}
	if err := b.run(ctx, b.Checkout, []string{cgo}, "go", append(args, p.Package)...); err != nil {
		return Built{}, fmt.Errorf("compile %s: %w", p.Name, err)
	}
	info, err := buildinfo.ReadFile(out)
	if err != nil {
		return Built{}, fmt.Errorf("compile %s: %w", p.Name, err)
	}
	return Built{Name: p.Name, Path: out, Modules: info.Deps, C: p.C}, nil
}

func (b Builder) tags(always ...string) string { return strings.Join(append(always, b.Tags...), ",") }

// CompileCNI builds the plugins with gobusybox, once per version of the tools
// module: that takes longer than all the rest and changes rarely.
func (b Builder) CompileCNI(ctx context.Context) (Built, error) {
	tools := filepath.Join(b.Checkout, "tools")
	key, err := b.cniKey(ctx, tools)
	if err != nil {
		return Built{}, fmt.Errorf("compile CNI plugins: %w", err)
	}
	modules, err := b.pluginModules(ctx, tools)
	if err != nil {
		return Built{}, fmt.Errorf("compile CNI plugins: %w", err)
	}
	kept := filepath.Join(b.Cache, "cni-"+key)
	if _, err := os.Stat(kept); err != nil {
		if err := b.makeCNI(ctx, tools, kept); err != nil {
			return Built{}, fmt.Errorf("compile CNI plugins: %w", err)
		}
	}
	return Built{Name: CNI, Path: kept, Modules: modules}, nil
}

func (b Builder) makeCNI(ctx context.Context, tools, out string) error {
	makebb := filepath.Join(b.Cache, "makebb")
	if err := b.run(ctx, tools, []string{"CGO_ENABLED=0"}, "go", "build", "-buildvcs=false", "-o", makebb, "github.com/u-root/gobusybox/src/cmd/makebb"); err != nil {
		return err
	}
	generated, err := os.MkdirTemp(b.Cache, "bb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(generated)
	args := []string{"-gen-dir", filepath.Join(generated, "gen"), "-o", filepath.Join(generated, "bb")}
	for _, p := range Plugins {
		args = append(args, pluginsModule+p)
	}
	if err := b.run(ctx, tools, []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false"}, makebb, args...); err != nil {
		return err
	}
	return os.Rename(filepath.Join(generated, "bb"), out)
}

// cniKey changes with whatever changes the bytes.
func (b Builder) cniKey(ctx context.Context, tools string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile(filepath.Join(tools, name))
		if err != nil {
			return "", err
		}
		h.Write(raw)
	}
	version, err := b.output(ctx, tools, "go", "version")
	if err != nil {
		return "", err
	}
	fmt.Fprint(h, version, Plugins)
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// pluginModules asks go which modules the plugins come from: the multi-call
// program is compiled without module information of its own.
func (b Builder) pluginModules(ctx context.Context, tools string) ([]*debug.Module, error) {
	args := []string{"list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}} {{.Sum}}{{end}}"}
	for _, p := range Plugins {
		args = append(args, pluginsModule+p)
	}
	out, err := b.output(ctx, tools, "go", args...)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	var modules []*debug.Module
	for _, line := range slices.Compact(lines) {
		if f := strings.Fields(line); len(f) == 3 {
			modules = append(modules, &debug.Module{Path: f[0], Version: f[1], Sum: f[2]})
		}
	}
	return modules, nil
}

// Toolchain returns the versions of go and of the packages whose bytes end up
// in isolated, by the names of the lock file; where a name is not installed
// the version is "".
func (b Builder) Toolchain(ctx context.Context, names []string) map[string]string {
	have := map[string]string{}
	for _, name := range names {
		if name == "go" {
			text, _ := b.output(ctx, b.Checkout, "go", "env", "GOVERSION")
			have[name] = strings.TrimSpace(text)
			continue
		}
		text, err := b.output(ctx, b.Checkout, "dpkg-query", "-W", "-f", "${Version}", name)
		if err != nil {
			text = ""
		}
		have[name] = strings.TrimSpace(text)
	}
	return have
}

// Libgcc returns the compiler's major version and the version of the package that its
// run-time library comes from.
func (b Builder) Libgcc(ctx context.Context) (major, version string, err error) {
	file, err := b.output(ctx, b.Checkout, "gcc", "-print-libgcc-file-name")
	if err != nil {
		return "", "", fmt.Errorf("ask gcc for its library: %w", err)
	}
	major = filepath.Base(filepath.Dir(strings.TrimSpace(file)))
	version, err = b.output(ctx, b.Checkout, "dpkg-query", "-W", "-f", "${Version}", "libgcc-"+major+"-dev")
	if err != nil {
		return "", "", fmt.Errorf("package of %s: %w", strings.TrimSpace(file), err)
	}
	return major, strings.TrimSpace(version), nil
}

// ArchiveSHA256 returns the checksum of a library as gcc links it, such as libc.a.
func (b Builder) ArchiveSHA256(ctx context.Context, name string) (string, error) {
	file, err := b.output(ctx, b.Checkout, "gcc", "-print-file-name="+name)
	if err != nil {
		return "", fmt.Errorf("ask gcc for %s: %w", name, err)
	}
	raw, err := os.ReadFile(strings.TrimSpace(file))
	if err != nil {
		return "", fmt.Errorf("library %s: %w", name, err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

func (b Builder) run(ctx context.Context, dir string, extra []string, program string, args ...string) error {
	cmd := b.command(ctx, dir, extra, program, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (b Builder) output(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := b.command(ctx, dir, []string{"CGO_ENABLED=0"}, program, args...)
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return "", fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(failed.Stderr))
	}
	return string(out), err
}

// passed are the variables that find programs, caches and proxies and change
// no byte of the result.
var passed = []string{
	"PATH", "HOME", "TMPDIR", "GOPATH", "GOCACHE", "GOMODCACHE", "GOROOT", "GOPROXY", "GOSUMDB", "GONOSUMDB",
	"GONOSUMCHECK", "GOPRIVATE", "GONOPROXY", "GOTOOLCHAIN", "GOENV", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"GOMAXPROCS",
}

func (b Builder) command(ctx context.Context, dir string, extra []string, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C", "TZ=UTC", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOWORK=off",
		"GOFLAGS=-mod=readonly", "CC=gcc", "CGO_CFLAGS=-O2", "CGO_LDFLAGS=", "SOURCE_DATE_EPOCH=0")
	cmd.Env = append(cmd.Env, extra...)
	return cmd
}
