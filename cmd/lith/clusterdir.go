package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mesolith/mesolith/internal/sockpath"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// defaultClusterDir is where `lith up` keeps a cluster and where the other commands look
// for it, unless --cluster or LITH_CLUSTER says otherwise.
const defaultClusterDir = ".mesolith"

// clusterDirEnv names the variable that --cluster's default comes from.
const clusterDirEnv = "LITH_CLUSTER"

// Files of a cluster's directory.
const (
	planFile       = "plan.json"       // what the supervisor starts; secret
	stateFile      = "state.json"      // what other commands need to reach the cluster
	supervisorFile = "supervisor.json" // who runs it
	supervisorLog  = "supervisor.log"
	supervisorSock = "supervisor.sock"
	operatorCert   = "operator.crt" // leaf, then the chain up to the root
	operatorKey    = "operator.key"
	anchorFile     = "anchor.json"
)

// clusterState is what `lith up` tells the other commands.
type clusterState struct {
	Name      string        `json:"name"`
	Plaintext bool          `json:"plaintext"` // the API takes plain HTTP too
	Doors     cluster.Doors `json:"doors"`
	Started   time.Time     `json:"started"`
	Nodes     []stateNode   `json:"nodes"`
}

type stateNode struct {
	Name    string `json:"name"`
	Address string `json:"address"` // on the LAN
	Master  bool   `json:"master"`
}

// supervisorNote says which processes a cluster consists of.
type supervisorNote struct {
	Supervisor vm.Process            `json:"supervisor"`
	Machines   map[string]vm.Process `json:"machines"`
}

// errNoCluster says that no cluster was started in a directory.
var errNoCluster = errors.New("no cluster was started there")

// clusterDirFlag resolves the directory: flag, then environment, then the default.
func clusterDirFlag(flag string) (string, error) {
	dir := flag
	if dir == "" {
		dir = os.Getenv(clusterDirEnv)
	}
	if dir == "" {
		dir = defaultClusterDir
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the cluster's directory: %w", err)
	}
	return abs, nil
}

// readClusterState reads what `lith up` wrote.
func readClusterState(dir string) (clusterState, error) {
	var s clusterState
	err := readJSON(filepath.Join(dir, stateFile), &s)
	if errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("cluster in %s: %w (start one with `lith up`, or name another directory with --cluster)", dir, errNoCluster)
	}
	return s, err
}

// errNotRunning says that a cluster was started in a directory and does not run any more.
var errNotRunning = errors.New("it was started and does not run any more")

// checkRuns says so when a cluster's supervisor has died, and its machines with it. Without
// a note, or with a socket that takes calls, it is left to the calls themselves.
func checkRuns(ctx context.Context, dir string) error {
	var note supervisorNote
	if err := readJSON(filepath.Join(dir, supervisorFile), &note); err != nil || note.Supervisor.Alive() {
		return nil
	}
	conn, err := sockpath.Dial(ctx, filepath.Join(dir, supervisorSock))
	if err == nil {
		return conn.Close()
	}
	return fmt.Errorf("cluster in %s: %w: `lith up%s` starts it anew, `lith down%s` clears what it has left (%s may say why it ended)",
		dir, errNotRunning, atDir(dir), atDir(dir), filepath.Join(dir, supervisorLog))
}

func readJSON(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file as a whole; only the user can read it.
func writeJSON(path string, value any) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	next := path + ".new"
	if err := os.WriteFile(next, append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}
