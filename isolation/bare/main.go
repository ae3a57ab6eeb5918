// Command bare stands in isolated's place on the machine that figure 9 is taken on, to
// say what starting a container costs there without anything of ours: how long
// libcontainer takes by itself to create and start the same container (the image's
// layers, the specification that isolated makes of the same task, all namespaces, all
// limits), with no network set up, nothing recorded, no output kept.
//
// init starts it as it starts isolated. The first time it becomes isolated at once, by
// exec, so that what is measured is the program that ships. After that program was
// killed, and init has started this one again, it starts its containers, logs how long
// each took, says on the console that it is done (so that nobody needs to ask meanwhile
// and take time from it), and becomes isolated again.
//
// It is in no image: the bench adds it to its own machines.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	_ "github.com/opencontainers/cgroups/devices" // libcontainer's device filter
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // makes the namespaces before Go starts
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/isolation/rootfs"
	"github.com/mesolith/mesolith/isolation/run"
	"github.com/mesolith/mesolith/isolation/seccomp"
	"github.com/mesolith/mesolith/isolation/spec"
)

const (
	runs    = 15      // containers a round
	firstID = 1 << 30 // of the host's ids: far from those that isolated gives
	memory  = 32 << 20
	cpu     = 50 // thousandths
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "init" { // libcontainer starts this program again
		libcontainer.Init()
		return
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := mainErr(log); err != nil {
		log.Error("bare", "error", err)
		say("bare containers: " + err.Error())
	}
	self, err := os.Executable()
	if err == nil {
		real := filepath.Join(filepath.Dir(self), "shipped", "isolated")
		err = syscall.Exec(real, append([]string{real}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, "bare: become isolated:", err)
	os.Exit(1)
}

// mainErr measures, unless this is the first start since boot.
func mainErr(log *slog.Logger) error {
	f, err := os.OpenFile("/run/mesolith/bare-was-started", os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	set := flag.NewFlagSet("bare", flag.ContinueOnError)
	store := set.String("store", "/store", "")
	for _, other := range []string{"socket", "init-socket", "state-dir", "work-dir", "cni-bin", "pull", "base"} {
		set.String(other, "", "isolated's")
	}
	if err := set.Parse(os.Args[1:]); err != nil {
		return err
	}
	s := imagestore.Store{Dir: *store}
	img, err := cached(s)
	if err != nil {
		return err
	}
	dir := filepath.Join(*store, "bare")
	defer os.RemoveAll(dir)
	var all []time.Duration
	for i := range runs {
		took, err := one(s, img, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprintf("bare-%d-%d", os.Getpid(), i))
		if err != nil {
			return fmt.Errorf("container %d of %d: %w", i, runs, err)
		}
		all = append(all, took)
	}
	for _, took := range all {
		log.Info("bare start", "ms", float64(took.Microseconds())/1000)
	}
	say(fmt.Sprintf("bare containers: %d started", len(all)))
	return nil
}

// say writes a line to the console, by way of the kernel's log.
func say(line string) {
	if err := os.WriteFile("/dev/kmsg", []byte("<3>mesolith: "+line+"\n"), 0); err != nil {
		fmt.Fprintln(os.Stderr, "bare: write to the console:", err)
	}
}

// cached is the image that the measured tasks have.
func cached(s imagestore.Store) (imagestore.Image, error) {
	files, err := filepath.Glob(filepath.Join(s.Images(), "*.json"))
	if err != nil {
		return imagestore.Image{}, err
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return imagestore.Image{}, err
		}
		img, err := imagestore.Decode(f)
		f.Close()
		if err != nil {
			return img, err
		}
		if strings.Contains(img.Reference, "testtask") {
			return img, nil
		}
	}
	return imagestore.Image{}, fmt.Errorf("no image of the tests' task is in %s: no task ran here before", s.Images())
}

// one is a container's whole life; only create and start are timed.
func one(s imagestore.Store, img imagestore.Image, dir, id string) (took time.Duration, err error) {
	var layers []string
	for _, l := range img.Layers {
		layers = append(layers, s.Layer(l))
	}
	bundle := filepath.Join(dir, "bundle")
	root, err := rootfs.Mount(layers, bundle, rootfs.IDs{Disk: run.StoreIDs, Host: firstID, Count: spec.RangeSize})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rootfs.Unmount(bundle)) }()
	described, err := describe(img, dir, root, id)
	if err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	process := run.FirstProcess(described.Process)
	process.Stdout, process.Stderr = null, null

	began := time.Now()
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: described})
	if err != nil {
		return 0, err
	}
	c, err := libcontainer.Create(filepath.Join(dir, "state"), id, config)
	if err != nil {
		return 0, err
	}
	if err := c.Start(process); err != nil {
		return 0, errors.Join(err, c.Destroy())
	}
	err = c.Exec()
	took = time.Since(began)

	_, werr := process.Wait()
	return took, errors.Join(err, werr, c.Destroy())
}

// describe gives the specification that isolated would make of the same task.
func describe(img imagestore.Image, dir, root, id string) (*specs.Spec, error) {
	etc, sandbox := filepath.Join(dir, "etc"), filepath.Join(dir, "sandbox")
	if err := errors.Join(os.MkdirAll(etc, 0o711), os.MkdirAll(sandbox, 0o750), os.Chmod(filepath.Dir(dir), 0o711), os.Chown(sandbox, firstID, firstID)); err != nil {
		return nil, err
	}
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(id+"\n"), 0o644); err != nil {
			return nil, err
		}
	}
	task := &mesosv1.TaskInfo{
		Name: &id, TaskId: &mesosv1.TaskID{Value: &id},
		Command: &mesosv1.CommandInfo{
			Shell: proto.Bool(false), Value: proto.String("/program"), Arguments: []string{"program", "say", "fast"},
		},
	}
	s, err := spec.Build(spec.Input{
		Task: task, Image: img.Config, HasImage: true, ContainerID: id, Hostname: id, Rootfs: root, Sandbox: sandbox, Etc: etc,
		Cgroup: "/tasks/" + id, User: spec.User{Name: "root", Home: "/root"}, FirstID: firstID, CPUMillis: cpu, Memory: memory,
	})
	if err != nil {
		return nil, err
	}
	s.Linux.Seccomp, err = seccomp.For(s.Process.Capabilities.Bounding)
	return s, err
}
