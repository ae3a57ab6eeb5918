package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"golang.org/x/sync/errgroup"
)

const devHelp = `clusterd --dev --dir DIR runs a whole cluster in one process, for authors of frameworks:
the Mesos v1 API on 127.0.0.1:5050, the agent's on 127.0.0.1:5051, plain HTTP and no
credentials, because it listens on loopback alone. It starts isolated beside itself;
tasks outlive both. Started again on the same DIR it knows everything again.

  clusterd --dev --dir /tmp/m
  clusterd --dev --dir /tmp/m1 --listen 127.0.0.1:5050 --agent-listen 127.0.0.1:5051 \
           --peers 127.0.0.1:5050,127.0.0.1:5060,127.0.0.1:5070

With --peers three (or five) of them make a cluster with a real election; each one talks
to the others on the port two above its --listen. --acls, --rate-limits and --credentials
try what a framework does when it is not allowed everything (docs/authorization.md).
`

// devFlags are the options of --dev.
type devFlags struct {
	dir, listen, agentListen, peers, isolated, resources, zookeeper, domain string
	acls, rateLimits, credentials                                           string // files
	heartbeat                                                               time.Duration
	oversubscribe                                                           float64
	allocation                                                              nodedoc.Allocation
	verbose                                                                 bool
}

func parseDev(args []string, out io.Writer) (devFlags, error) {
	var f devFlags
	fs := flag.NewFlagSet("clusterd", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Usage = func() {
		fmt.Fprint(out, devHelp, "\nOptions:\n")
		fs.PrintDefaults()
	}
	fs.Bool("dev", true, "a cluster of processes on this machine")
	fs.StringVar(&f.dir, "dir", "", "where everything is kept (needed)")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:5050", "address of the master's API, on loopback")
	fs.StringVar(&f.agentListen, "agent-listen", "127.0.0.1:5051", "address of the agent's API, on loopback")
	fs.StringVar(&f.peers, "peers", "", "API addresses of all 1, 3 or 5 members, this one included")
	fs.StringVar(&f.isolated, "isolated", "", "the container keeper's program (default: beside this one)")
	fs.StringVar(&f.resources, "resources", "", "what is offered, as in cpus:4;mem:8192;ports:[31000-32000] (default: the machine)")
	fs.StringVar(&f.zookeeper, "zookeeper", "", "address, on loopback, where zk://ADDRESS/mesos finds the leader (default: nowhere)")
	fs.StringVar(&f.domain, "domain", "", "REGION/ZONE where the master and the agent stand (default: not said)")
	fs.Float64Var(&f.oversubscribe, "oversubscribe", 0, "cpus offered beyond those of --resources, as revocable ones")
	fs.StringVar(&f.allocation.RoleSorter, "role-sorter", nodedoc.SorterDRF, "which role is offered next: drf or random")
	fs.StringVar(&f.allocation.FrameworkSorter, "framework-sorter", nodedoc.SorterDRF, "which framework of a role is offered next: drf or random")
	fs.DurationVar(&f.heartbeat, "heartbeat", 250*time.Millisecond, "Raft's heartbeat timeout")
	fs.StringVar(&f.acls, "acls", "", "file with Mesos' ACLs in JSON: who may do what (default: everybody everything)")
	fs.StringVar(&f.rateLimits, "rate-limits", "", "file with Mesos' rate limits in JSON")
	fs.StringVar(&f.credentials, "credentials", "", "file with credentials in Mesos' JSON, so that ACLs can name somebody; others stay anonymous")
	fs.BoolVar(&f.verbose, "verbose", false, "log everything")
	if err := fs.Parse(args); err != nil {
		return f, err
	}
	if fs.NArg() > 0 {
		return f, fmt.Errorf("unexpected argument %q; options only", fs.Arg(0))
	}
	if f.dir == "" {
		return f, errors.New("--dev needs --dir DIR, the directory where everything is kept")
	}
	if f.peers == "" {
		f.peers = f.listen
	}
	var err error
	f.dir, err = filepath.Abs(f.dir)
	return f, err
}

// devMembers reads --peers: names by address, in the order of the addresses.
func devMembers(peers, listen string) (map[string]netip.AddrPort, []string, error) {
	members := map[string]netip.AddrPort{}
	var names []string
	own := false
	for text := range strings.SplitSeq(peers, ",") {
		a, err := loopback("--peers", strings.TrimSpace(text))
		if err != nil {
			return nil, nil, err
		}
		name := devName(a)
		if _, twice := members[name]; twice {
			return nil, nil, fmt.Errorf("--peers: %s is named twice", a)
		}
		members[name] = a
		names = append(names, name)
		own = own || a.String() == listen
	}
	if n := len(names); n != 1 && n != 3 && n != 5 {
		return nil, nil, fmt.Errorf("--peers names %d members; use 1, 3 or 5: an even number cannot outvote a split", n)
	}
	if !own {
		return nil, nil, fmt.Errorf("--peers does not name this member, --listen %s", listen)
	}
	slices.Sort(names)
	return members, names, nil
}

func devName(a netip.AddrPort) string {
	return "dev-" + strings.NewReplacer(".", "-", ":", "-").Replace(a.Addr().String()) + "-" + strconv.Itoa(int(a.Port()))
}

// loopback refuses what strangers could reach: nothing here asks for credentials.
func loopback(option, text string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return a, fmt.Errorf("%s: %q is not ADDRESS:PORT, as in 127.0.0.1:5050", option, text)
	case !a.Addr().IsLoopback():
		return a, fmt.Errorf("%s: %s is not on loopback; --dev has no credentials, so it listens on 127.0.0.0/8 only (a real cluster: lith up)", option, a)
	case a.Port() == 0 || a.Port() > math.MaxUint16-2:
		return a, fmt.Errorf("%s: port %d cannot be used: the port two above it is needed too", option, a.Port())
	}
	return a, nil
}

func runDev(ctx context.Context, args []string, stderr io.Writer) error {
	f, err := parseDev(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if logLevel.Set(slog.LevelWarn); f.verbose {
		logLevel.Set(slog.LevelInfo)
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: &logLevel}))
	lock, err := lockDir(f.dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	m, err := f.membership(log)
	if err != nil {
		return err
	}
	k, err := newDevKeeper(f.dir, f.isolated, log)
	if err != nil {
		return err
	}
	m.keeper = k.socket
	fmt.Fprintf(stderr, "clusterd: API http://%s, agent http://%s, everything in %s\n", f.listen, f.agentListen, f.dir)
	if m.zookeeper != nil {
		fmt.Fprintf(stderr, "clusterd: clients of ZooKeeper find the leader at zk://%s%s\n", f.zookeeper, m.doc.ZooKeeper)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.run(gctx) })
	g.Go(func() error { return m.run(gctx) })
	err = g.Wait()
	if ctx.Err() != nil {
		k.farewell(stderr, f)
	}
	return err
}

// farewell says what goes on without clusterd.
func (k *devKeeper) farewell(out io.Writer, f devFlags) {
	pid, err := k.holder()
	if err != nil {
		fmt.Fprintln(out, "clusterd: ended; nothing goes on running")
		return
	}
	fmt.Fprintf(out, "clusterd: ended. isolated (pid %d) and the tasks it keeps go on running.\n", pid)
	fmt.Fprintf(out, "  back to them:  clusterd --dev --dir %s\n", f.dir)
	fmt.Fprintf(out, "  end isolated:  kill %d   (tasks then go on without a keeper until the next start)\n", pid)
}

func (f devFlags) membership(log *slog.Logger) (membership, error) {
	var m membership
	listen, err := loopback("--listen", f.listen)
	if err != nil {
		return m, err
	}
	agentListen, err := loopback("--agent-listen", f.agentListen)
	if err != nil {
		return m, err
	}
	var shim netip.AddrPort
	if f.zookeeper != "" {
		if shim, err = loopback("--zookeeper", f.zookeeper); err != nil {
			return m, err
		}
	}
	members, names, err := devMembers(f.peers, listen.String())
	if err != nil {
		return m, err
	}
	if f.resources != "" {
		if _, err := agent.ParseResources(f.resources); err != nil {
			return m, fmt.Errorf("--%w", err)
		}
	}
	region, zone, err := devDomain(f.domain)
	if err != nil {
		return m, err
	}
	if err := f.checkAllocation(); err != nil {
		return m, err
	}
	incarnation, err := devIncarnation(f.dir)
	if err != nil {
		return m, err
	}
	policy, err := f.policy()
	if err != nil {
		return m, err
	}
	id := sha256.Sum256([]byte("mesolith dev " + strings.Join(names, ",")))
	inventory, err := devInventory(f.dir)
	if err != nil {
		return m, err
	}
	m = membership{
		doc: nodedoc.Document{
			Cluster: "dev", ClusterID: hex.EncodeToString(id[:16]), Name: devName(listen), Mode: nodedoc.ModeDisk, Region: region, Zone: zone,
			Masters: nodedoc.Masters{Version: 1, Names: names, WaitMS: 30_000}, Raft: nodedoc.Raft{HeartbeatMS: f.heartbeat.Milliseconds(), StallMS: 5000},
			AgentsGraceMS: 25_000, API: nodedoc.API{Plaintext: true, Anonymous: nodedoc.AnonymousFramework}, Resources: f.resources,
			Oversubscribe: nodedoc.Oversubscribe{CPUs: f.oversubscribe}, Allocation: f.allocation,
			Reserve: nodedoc.Reserve{MemoryMB: min(1024, inventory.GetMemoryBytes()/2>>20)},
			Tasks:   nodedoc.Tasks{Image: "base", HostNetworkRoles: []string{"*"}, Pool: "10.88.0.0/16"},
		},
		incarnation: incarnation, address: listen.Addr().String(), apiPort: int(listen.Port()), agentPort: int(agentListen.Port()),
		dataDir: f.dir, workDir: filepath.Join(f.dir, "work"), inventory: inventory, now: time.Now, log: log,
		policy: policy,
		resolve: func(name string) []string {
			if a, ok := members[name]; ok {
				return []string{netip.AddrPortFrom(a.Addr(), a.Port()+2).String()}
			}
			return nil
		},
		apiAddress: func(name string) string { return members[name].String() },
	}
	if err := m.listen(listen, agentListen); err != nil {
		return m, err
	}
	return m, m.openZooKeeper(shim)
}

func (f devFlags) checkAllocation() error {
	if f.oversubscribe < 0 || f.oversubscribe > 4096 || math.IsNaN(f.oversubscribe) {
		return fmt.Errorf("--oversubscribe: %v is not a number of cpus from 0 to 4096", f.oversubscribe)
	}
	for name, sorter := range map[string]string{"--role-sorter": f.allocation.RoleSorter, "--framework-sorter": f.allocation.FrameworkSorter} {
		if sorter != nodedoc.SorterDRF && sorter != nodedoc.SorterRandom {
			return fmt.Errorf("%s: %.80q is not drf or random", name, sorter)
		}
	}
	return nil
}

// devDomain reads --domain.
func devDomain(text string) (region, zone string, err error) {
	if text == "" {
		return "", "", nil
	}
	region, zone, ok := strings.Cut(text, "/")
	if !ok || !nodedoc.ValidName(region) || !nodedoc.ValidName(zone) {
		return "", "", fmt.Errorf("--domain: %.80q is not REGION/ZONE, as in fra/a: two names of a-z, 0-9 and dashes", text)
	}
	return region, zone, nil
}

func (m *membership) listen(api, agentAPI netip.AddrPort) error {
	for _, l := range []struct {
		to   *net.Listener
		at   netip.AddrPort
		what string
	}{{&m.api, api, "--listen"}, {&m.agentAPI, agentAPI, "--agent-listen"}, {&m.peer, netip.AddrPortFrom(api.Addr(), api.Port()+2), "the port for the other members (two above --listen)"}} {
		ln, err := listenOn(l.what, l.at)
		if err != nil {
			return err
		}
		*l.to = ln
	}
	return nil
}

func listenOn(what string, at netip.AddrPort) (net.Listener, error) {
	l, err := net.Listen("tcp", at.String())
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is in use by another program: end that one, or choose another address", what, at)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return l, nil
}

// devIncarnation is kept with the rest: a directory is what a disk is to a machine.
func devIncarnation(dir string) (string, error) {
	path := filepath.Join(dir, "incarnation")
	raw, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(raw))) == 32 {
		return strings.TrimSpace(string(raw)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read incarnation: %w", err)
	}
	var b [16]byte
	rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write incarnation: %w", err)
	}
	return id, nil
}

// devInventory is what a process can see of its machine.
func devInventory(dir string) (*noded.Inventory, error) {
	inv := &noded.Inventory{Cpus: uint32(runtime.NumCPU())}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory size: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb uint64
		if n, _ := fmt.Sscanf(s.Text(), "MemTotal: %d kB", &kb); n == 1 {
			inv.MemoryBytes = kb << 10
		}
	}
	if inv.MemoryBytes == 0 {
		return nil, errors.New("read memory size: /proc/meminfo has no MemTotal")
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return nil, fmt.Errorf("read disk size of %s: %w", dir, err)
	}
	inv.WorkDiskBytes = fs.Bavail * uint64(fs.Bsize) / 2
	return inv, nil
}
