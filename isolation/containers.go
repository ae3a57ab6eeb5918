package main

import (
	"fmt"
	"hash/fnv"
	"path/filepath"

	"github.com/mesolith/mesolith/isolation/run"
	"github.com/mesolith/mesolith/isolation/serve"
	"github.com/mesolith/mesolith/net/cni"
)

// containers takes libcontainer as the runtime. On a node (PID 1 is ours) tasks have the
// cluster's network and the group /tasks; elsewhere they share the machine's network,
// and groups and names carry a mark of the state directory, so that several keepers can
// live on one machine.
func containers(cfg *run.Config, f flags, server *serve.Server) error {
	group, prefix := "/tasks", "mesolith-"
	if f.initSocket == "" {
		h := fnv.New32a()
		h.Write([]byte(f.stateDir))
		group = fmt.Sprintf("/mesolith-%08x", h.Sum32())
		prefix = fmt.Sprintf("mesolith-%08x-", h.Sum32())
	}
	runtime, err := run.NewContainers(filepath.Join(f.stateDir, "libcontainer"), f.store, group, prefix)
	if err != nil {
		return err
	}
	cfg.Runtime = runtime
	if f.initSocket == "" {
		return nil
	}
	n, err := newNetwork(cni.Config{Bin: f.cniBin, Dir: filepath.Join(f.stateDir, "network"), Log: cfg.Log})
	if err != nil {
		return err
	}
	cfg.Network, server.Network = n, n
	return nil
}
