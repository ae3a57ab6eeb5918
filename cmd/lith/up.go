package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// upOptions are the flags of `lith up`.
type upOptions struct {
	dir      string
	file     string
	nodes    int
	memoryMB int
	image    string
	accel    string
	offline  bool
	demo     bool
	wait     time.Duration
}

// upCommand boots a cluster in QEMU.
func upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Boot a cluster in QEMU on this machine",
		Long: `Boot a cluster of virtual machines on this machine, as an ordinary user and without
changing its network: from a cluster file (-f), or from a generated one of --nodes nodes.

The cluster's files, sockets and process numbers are in ./.mesolith (--cluster or
$LITH_CLUSTER name another place), where the other commands find it. Several clusters
run side by side, each in a directory of its own. "lith down" ends it.`,
		Example: "  lith up\n  lith up --nodes 5 --cluster /tmp/five\n  lith up -f rack7.yaml",
		Args:    noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.dir, err = clusterDirFlag(o.dir); err != nil {
				return err
			}
			return up(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "cluster", "", "directory of the cluster (default $"+clusterDirEnv+" or ./"+defaultClusterDir+")")
	f.StringVarP(&o.file, "file", "f", "", "cluster file (default: one is generated)")
	f.IntVar(&o.nodes, "nodes", 3, "number of nodes of a generated file")
	f.IntVar(&o.memoryMB, "memory", cluster.DefaultMemoryMB, "memory of each machine in MB")
	f.StringVar(&o.image, "image", filepath.Join("build", "image"), "directory of a built image")
	f.StringVar(&o.accel, "accel", "auto", "auto, kvm or tcg (software emulation)")
	f.BoolVar(&o.offline, "offline", false, "machines reach nothing but their own LAN")
	f.BoolVar(&o.demo, "demo", false, "then run a sample batch and a sample service on it")
	completeFiles(cmd, []string{"cluster", "image"}, map[string]string{"file": "yaml"})
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("accel", words("auto", vm.AccelKVM, vm.AccelTCG)))
	f.DurationVar(&o.wait, "wait", 5*time.Minute, "how long all nodes may take to be ready")
	return cmd
}

func up(ctx context.Context, o upOptions, out io.Writer) error {
	if err := refuseRunning(o.dir); err != nil {
		return err
	}
	img, err := cluster.FindImage(o.image)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(vm.Program); err != nil {
		return fmt.Errorf("%s is not installed: on Debian and Ubuntu, `apt-get install qemu-system-x86` brings it", vm.Program)
	}
	accel, err := chooseAccel(ctx, o.accel, img.Kernel, slog.New(sayHandler{out}))
	if err != nil {
		return err
	}
	draft, err := draftCluster(o, accel)
	if err != nil {
		return err // and nothing was made or changed
	}
	lock, err := claimDir(ctx, o.dir)
	if errors.Is(err, errBusy) {
		return fmt.Errorf("another `lith up` is starting a cluster in %s: wait for it, or name another directory with --cluster", o.dir)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := clearLeftovers(ctx, o.dir, out); err != nil {
		return err
	}
	plan := draft.plan
	plan.Image, plan.Accel, plan.MemoryMB, plan.NAT, plan.WaitFor = img, accel, o.memoryMB, !o.offline, o.wait
	if err := draft.write(o.dir, plan, out); err != nil {
		return err
	}
	fmt.Fprintf(out, "booting %s of cluster %s with %d MB each, %s\n", plural(len(plan.Nodes), "node", "nodes"), plan.Name, o.memoryMB, accelSentence(o.accel, accel))
	if err := startSupervisor(o.dir, lock); err != nil {
		return err
	}
	if err := lock.Close(); err != nil { // from now on it is the supervisor's alone
		return err
	}
	if err := followStart(ctx, o.dir, newProgress(out)); err != nil {
		return err
	}
	if o.demo {
		if err := demo(ctx, o.dir, out); err != nil {
			return fmt.Errorf("the cluster is up, but the demo failed: %w", err)
		}
	}
	return printWhereToLook(o.dir, out)
}

// refuseRunning refuses a directory whose cluster runs.
func refuseRunning(dir string) error {
	var note supervisorNote
	err := readJSON(filepath.Join(dir, supervisorFile), &note)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if note.Supervisor.Alive() {
		return fmt.Errorf("a cluster runs in %s already (process %d): end it with `lith down%s`, or start another one with --cluster DIR", dir, note.Supervisor.PID, atDir(dir))
	}
	return nil
}

// clearLeftovers ends what a dead supervisor has left; the caller holds the directory, so
// none lives.
func clearLeftovers(ctx context.Context, dir string, out io.Writer) error {
	if _, err := os.Stat(filepath.Join(dir, supervisorFile)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ended, err := endProcesses(ctx, dir)
	if err != nil {
		return err
	}
	for _, name := range []string{supervisorFile, stateFile, planFile, supervisorSock, "nodes"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "cleared what an earlier cluster left in %s (%s)\n", dir, plural(ended, "process", "processes"))
	return nil
}

func chooseAccel(ctx context.Context, choice, kernel string, log *slog.Logger) (string, error) {
	switch choice {
	case vm.AccelKVM, vm.AccelTCG:
		return choice, nil
	case "auto":
		cache, err := vm.CacheDir()
		if err != nil {
			return "", err
		}
		return vm.Accelerator(ctx, kernel, cache, log)
	}
	return "", fmt.Errorf("--accel %q is not auto, kvm or tcg", choice)
}

func accelSentence(choice, accel string) string {
	switch {
	case accel == vm.AccelKVM:
		return "with KVM"
	case choice == vm.AccelTCG:
		return "by software emulation, as --accel says"
	}
	return "by software emulation (this host has no KVM that boots the kernel): a boot takes seconds more"
}

// startSupervisor starts this program once more, in a session of its own, and hands it
// the lock on the directory.
func startSupervisor(dir string, lock *os.File) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	logFile, err := os.OpenFile(filepath.Join(dir, supervisorLog), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	defer logFile.Close()
	cmd := exec.Command(self, "supervise", "--cluster", dir)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Dir = dir
	cmd.ExtraFiles = []*os.File{lock} // lockFD there
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	// Known by its number from now on, and reaped by this process if it ends before us.
	go func() { _ = cmd.Wait() }()
	return nil
}

// connectFor is how long the supervisor may take to listen.
const connectFor = 20 * time.Second

// followStart shows the supervisor's events until every node is ready or it has failed.
func followStart(ctx context.Context, dir string, p *progress) error {
	resp, err := openEvents(ctx, dir)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tailOf(filepath.Join(dir, supervisorLog), 10))
	}
	defer resp.Body.Close()
	defer p.finish()
	lines := json.NewDecoder(resp.Body)
	for {
		var e event
		if err := lines.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("the cluster goes on starting; `lith down%s` ends it: %w", atDir(dir), ctx.Err())
			}
			return fmt.Errorf("the supervisor ended: %w\n%s", err, tailOf(filepath.Join(dir, supervisorLog), 10))
		}
		p.show(e)
		switch e.Kind {
		case eventReady:
			return nil
		case eventFailed:
			return fmt.Errorf("the cluster did not come up: %s\nconsoles are in %s; `lith down%s` ends the machines",
				e.Text, filepath.Join(dir, "nodes", "*", "console.log"), atDir(dir))
		}
	}
}

func openEvents(ctx context.Context, dir string) (*http.Response, error) {
	limit := time.After(connectFor)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://supervisor/events", nil)
		if err != nil {
			return nil, err
		}
		resp, err := supervisorClient(dir).Do(req)
		if err == nil {
			return resp, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-limit:
			return nil, fmt.Errorf("the supervisor does not answer: %w", err)
		case <-tick.C:
		}
	}
}

// tailOf gives the last lines of a log, indented, for an error's sake.
func tailOf(path string, n int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "    (" + err.Error() + ")"
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return "    " + strings.Join(lines[max(len(lines)-n, 0):], "\n    ")
}

func printWhereToLook(dir string, out io.Writer) error {
	state, err := readClusterState(dir)
	if err != nil {
		return err
	}
	lith := os.Args[0]
	at := atDir(dir)
	scheme := "https"
	if state.Plaintext {
		scheme = "http"
	}
	fmt.Fprintf(out, "\nMesos API      %s://%s (any node answers)\n", scheme, state.Doors.API)
	fmt.Fprintf(out, "registry       push to %s/NAME, run as %s/NAME\n", state.Doors.Registry, state.Doors.RegistryHost)
	fmt.Fprintf(out, "everything     socks5h://%s reaches all of the LAN\n", state.Doors.Socks)
	fmt.Fprintf(out, "consoles       %s\n", filepath.Join(dir, "nodes", "NODE", "console.log"))
	fmt.Fprintf(out, "\nlook next      %s status%s\n               %s run%s base -- echo hello\n               %s down%s\n", lith, at, lith, at, lith, at)
	return nil
}
