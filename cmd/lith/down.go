package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mesolith/mesolith/internal/sockpath"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// downCommand ends what `lith up` has started.
func downCommand() *cobra.Command {
	var dir string
	var keep bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End the QEMU cluster and remove its files",
		Long: `End the QEMU cluster that "lith up" started: its machines, its LAN, its registry and its
supervisor. What "lith up" made in its directory is removed too, unless --keep is given
(consoles and logs are in it). A cluster file of your own (lith up -f) is not touched.`,
		Example: "  lith down\n  lith down --keep",
		Args:    noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := clusterDirFlag(dir)
			if err != nil {
				return err
			}
			return down(cmd.Context(), at, keep, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&dir, "cluster", "", "directory of the cluster (default $"+clusterDirEnv+" or ./"+defaultClusterDir+")")
	completeFiles(cmd, []string{"cluster"}, nil)
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the directory with consoles and logs")
	return cmd
}

func down(ctx context.Context, dir string, keep bool, out io.Writer) error {
	if _, err := os.Stat(filepath.Join(dir, planFile)); errors.Is(err, os.ErrNotExist) {
		if busy(dir) {
			return fmt.Errorf("a `lith up` is just starting a cluster in %s: interrupt it, or try again", dir)
		}
		fmt.Fprintf(out, "no cluster in %s: nothing to end\n", dir)
		return nil
	} else if err != nil {
		return err
	}
	if err := awaitNote(ctx, dir); err != nil {
		return err
	}
	ended, err := endProcesses(ctx, dir)
	if err != nil {
		return err
	}
	lock, err := awaitLock(ctx, dir, stopHard)
	if err != nil {
		return fmt.Errorf("%s ended, and another `lith up` runs there now: %w", plural(ended, "process", "processes"), err)
	}
	defer lock.Close()
	if keep {
		fmt.Fprintf(out, "ended %s; %s was kept\n", plural(ended, "process", "processes"), dir)
		return nil
	}
	left, err := removeOurs(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		fmt.Fprintf(out, "ended %s; %s was kept, because it holds %s besides\n", plural(ended, "process", "processes"), dir, strings.Join(left, ", "))
		return nil
	}
	fmt.Fprintf(out, "ended %s; %s was removed\n", plural(ended, "process", "processes"), dir)
	return nil
}

// awaitNote waits until a supervisor that is just starting has said which process it is.
func awaitNote(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(filepath.Join(dir, supervisorFile)); err == nil || !busy(dir) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a `lith up` is starting a cluster in %s and gets no further: interrupt it, or try again (%w)", dir, ctx.Err())
		case <-tick.C:
		}
	}
}

// How long each step of an end may take before the next, harder one.
const (
	stopPolitely = 20 * time.Second
	followParent = time.Second // a machine that the kernel ends with its supervisor
	stopHard     = 10 * time.Second
)

// endProcesses ends the supervisor and whatever machine outlived it, and counts those
// that ran. Processes are known by number, start time and program: a stranger with an
// old number is left alone.
func endProcesses(ctx context.Context, dir string) (int, error) {
	var note supervisorNote
	err := readJSON(filepath.Join(dir, supervisorFile), &note)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	all := []vm.Process{note.Supervisor}
	for _, p := range note.Machines {
		all = append(all, p)
	}
	ended := 0
	for _, p := range all {
		if p.Alive() {
			ended++
		}
	}
	if note.Supervisor.Alive() {
		// An error means that it is not listening (any more): then signals must do.
		_, _ = askSupervisor(ctx, dir, http.MethodPost, "/stop")
		if awaitEnd(ctx, note.Supervisor, stopPolitely) != nil {
			if err := note.Supervisor.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, vm.ErrGone) {
				return ended, err
			}
		}
	}
	for _, p := range all {
		if awaitEnd(ctx, p, followParent) == nil {
			continue
		}
		if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, vm.ErrGone) {
			return ended, err
		}
		if err := awaitEnd(ctx, p, stopHard); err != nil {
			return ended, err
		}
	}
	return ended, nil
}

// awaitEnd waits until a process has ended.
func awaitEnd(ctx context.Context, p vm.Process, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d (%s) does not end: %w", p.PID, p.Program, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// askSupervisor sends a request to a cluster's supervisor and gives its short answer.
func askSupervisor(ctx context.Context, dir, method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := supervisorClient(dir).Do(req)
	if err != nil {
		return "", fmt.Errorf("ask the supervisor of %s: %w", dir, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("ask the supervisor of %s: %w", dir, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return "", fmt.Errorf("the supervisor of %s answers: %s", dir, body)
	}
	return string(body), nil
}

func supervisorClient(dir string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return sockpath.Dial(ctx, filepath.Join(dir, supervisorSock))
		},
	}}
}
