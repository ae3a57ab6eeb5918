// Command isolated keeps a node's containers: it starts them by libcontainer, connects
// them by CNI and nftables, keeps their output and their end, and answers clusterd on a
// Unix socket. It may be killed at any moment: containers go on, and it finds them again.
//
// This file parses flags and wires the rooms; each of them says itself what it keeps.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"

	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/isolation/cgroup"
	"github.com/mesolith/mesolith/isolation/run"
	"github.com/mesolith/mesolith/isolation/serve"
)

type flags struct {
	socket, initSocket, stateDir, workDir, store, cniBin, pull, runtime, base string
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "init": // libcontainer starts this program again as a container's first process
			libcontainer.Init()
			return
		case "hold":
			run.Hold()
		}
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := mainErr(ctx, os.Args[1:], log); err != nil {
		fmt.Fprintln(os.Stderr, "isolated:", err)
		os.Exit(1)
	}
}

func parse(args []string) (flags, error) {
	var f flags
	set := flag.NewFlagSet("isolated", flag.ContinueOnError)
	set.StringVar(&f.socket, "socket", "/run/mesolith/isolated.sock", "Unix socket to answer on")
	set.StringVar(&f.initSocket, "init-socket", "/run/mesolith/init.sock", "PID 1's socket; empty: this machine's PID 1 is not ours")
	set.StringVar(&f.stateDir, "state-dir", "/var/lib/mesolith/isolated", "records of containers")
	set.StringVar(&f.workDir, "work-dir", "/var/lib/mesos", "sandboxes")
	set.StringVar(&f.store, "store", "/store", "images and root file systems")
	set.StringVar(&f.cniBin, "cni-bin", "/usr/lib/mesolith/cni", "CNI plugins")
	set.StringVar(&f.pull, "pull", "/usr/lib/mesolith/bin/clusterd pull", "program that pulls an image, with its first arguments")
	set.StringVar(&f.runtime, "runtime", "auto", "containers, processes, or auto: containers where the machine can")
	set.StringVar(&f.base, "base", "/usr/lib/mesolith/base.tar.zst", "root file system of tasks without an image")
	if err := set.Parse(args); err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		return f, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	for _, dir := range []*string{&f.stateDir, &f.workDir, &f.store, &f.socket, &f.cniBin, &f.base} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return f, err
		}
		*dir = abs
	}
	if _, err := os.Stat(f.base); errors.Is(err, os.ErrNotExist) {
		f.base = ""
	}
	return f, nil
}

func mainErr(ctx context.Context, args []string, log *slog.Logger) error {
	f, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	listener, err := serve.Listen(f.socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	cfg := run.Config{
		StateDir: f.stateDir, WorkDir: f.workDir, StoreDir: f.store, Pull: strings.Fields(f.pull), Base: f.base, Self: self, Log: log,
	}
	if f.initSocket != "" {
		cfg.Init = run.NewInitLink(f.initSocket)
	}
	server := &serve.Server{UIDs: clients(), Log: log}
	if server.Reason, err = choose(&cfg, f, server); err != nil {
		return err
	}
	fault.MarkIn(f.stateDir)
	k, err := run.New(cfg)
	if err != nil {
		return err
	}
	server.Keeper = k
	if err := k.Start(ctx); err != nil {
		return err
	}
	inventory(ctx, f, log)
	log.Info("isolated answers", "socket", f.socket, "runtime", k.RuntimeName(), "why", server.Reason)
	err = server.Run(ctx, listener)
	k.Wait()
	return err
}

// choose takes the runtime that the machine can have, and says why not the better one.
func choose(cfg *run.Config, f flags, server *serve.Server) (reason string, err error) {
	switch {
	case f.runtime != "auto" && f.runtime != "containers" && f.runtime != "processes":
		return "", fmt.Errorf("--runtime %s is not known: write auto, containers or processes", f.runtime)
	case f.runtime == "processes":
		reason = "asked for by --runtime"
	case os.Geteuid() != 0:
		reason = "isolated does not run as root"
	default:
		reason = cgroup.Unavailable()
	}
	if reason != "" {
		if f.runtime == "containers" {
			return "", fmt.Errorf("--runtime containers: %s", reason)
		}
		cfg.Runtime = run.Processes{Self: cfg.Self, Store: imagestore.Store{Dir: f.store}}
		return reason, nil
	}
	return "", containers(cfg, f, server)
}

// clients are the users besides root who may speak to the keeper.
func clients() []uint32 {
	out := []uint32{uint32(os.Geteuid())}
	if u, err := user.Lookup("clusterd"); err == nil {
		if id, err := strconv.ParseUint(u.Uid, 10, 32); err == nil {
			out = append(out, uint32(id))
		}
	}
	return out
}
