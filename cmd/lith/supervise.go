package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mesolith/mesolith/internal/sockpath"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// clusterPlan is what `lith up` hands its supervisor.
type clusterPlan struct {
	Name      string         `json:"name"`
	Nodes     []cluster.Node `json:"nodes"`
	Subnet    netip.Prefix   `json:"subnet"`
	Image     cluster.Image  `json:"image"`
	MemoryMB  int            `json:"memoryMB"`
	Accel     string         `json:"accel"`
	NAT       bool           `json:"nat"`
	Plaintext bool           `json:"plaintext"`
	WaitFor   time.Duration  `json:"waitFor"` // until all nodes are ready
}

// event is a line of the supervisor's /events.
type event struct {
	At   float64 `json:"at"` // seconds since the supervisor's start
	Node string  `json:"node,omitempty"`
	Kind string  `json:"kind"`
	Text string  `json:"text,omitempty"`
}

// Kinds of events beside those of machines.
const (
	eventMachine = "machine" // powered on, up, off
	eventPhase   = "phase"
	eventTrouble = "trouble"
	eventLeader  = "leader"
	eventReady   = "ready"  // every node is: the last one of a good start
	eventFailed  = "failed" // the last one of a bad start
)

// lockFD is the descriptor by which the supervisor holds its directory.
const lockFD = 3

// superviseCommand is the process that a cluster's machines live and die with.
func superviseCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "supervise", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Held until this process ends, and by no machine that it starts.
			syscall.CloseOnExec(lockFD)
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return supervise(ctx, dir)
		},
	}
	cmd.Flags().StringVar(&dir, "cluster", "", "directory of the cluster")
	return cmd
}

// supervisor owns one running cluster.
type supervisor struct {
	dir   string
	plan  clusterPlan
	log   *slog.Logger
	began time.Time

	mu      sync.Mutex
	events  []event
	changed chan struct{}
	cluster *cluster.Cluster
	doors   cluster.Doors

	ending bool // no service begins any more

	stop     context.CancelFunc
	services sync.WaitGroup
}

func supervise(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &supervisor{dir: dir, began: time.Now(), changed: make(chan struct{}), stop: cancel}
	s.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := readJSON(filepath.Join(dir, planFile), &s.plan); err != nil {
		return err
	}
	self, err := vm.Identify(os.Getpid())
	if err != nil {
		return err
	}
	note := supervisorNote{Supervisor: self, Machines: map[string]vm.Process{}}
	if err := writeJSON(filepath.Join(dir, supervisorFile), note); err != nil {
		return err
	}
	ln, err := sockpath.Listen(filepath.Join(dir, supervisorSock))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.routes(ctx), BaseContext: func(net.Listener) context.Context { return ctx }}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("control socket ended", "error", err)
		}
	})
	defer wg.Wait()
	defer server.Close()
	return s.run(ctx, note)
}

func (s *supervisor) run(ctx context.Context, note supervisorNote) error {
	transport, err := operatorTransport(s.dir)
	if err != nil {
		return err
	}
	c, err := cluster.Prepare(cluster.Config{
		Name: s.plan.Name, Dir: s.dir, Image: s.plan.Image, Nodes: s.plan.Nodes, Subnet: s.plan.Subnet,
		MemoryMB: s.plan.MemoryMB, Accel: s.plan.Accel, NAT: s.plan.NAT,
		Client: transport, Progress: s.report, Log: s.log,
	})
	if err != nil {
		return s.fail(ctx, err)
	}
	defer c.Close()
	defer s.endServices()
	doors, err := c.OpenDoors()
	if err != nil {
		return s.fail(ctx, err)
	}
	s.mu.Lock()
	s.cluster, s.doors = c, doors
	s.mu.Unlock()
	if err := s.writeState(doors); err != nil {
		return s.fail(ctx, err)
	}
	for _, m := range c.Machines() {
		if err := m.PowerOn(ctx); err != nil {
			return s.fail(ctx, err)
		}
		note.Machines[m.Node.Name] = m.VM().Process()
		if err := writeJSON(filepath.Join(s.dir, supervisorFile), note); err != nil {
			return s.fail(ctx, err)
		}
	}
	if err := s.awaitReady(ctx, c); err != nil {
		return s.fail(ctx, err)
	}
	<-ctx.Done()
	return nil
}

// endServices waits for the services, whose context has ended.
func (s *supervisor) endServices() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.services.Wait()
}

func (s *supervisor) awaitReady(ctx context.Context, c *cluster.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, s.plan.WaitFor)
	defer cancel()
	leader, err := c.WaitLeader(ctx)
	if err != nil {
		return err
	}
	s.add(event{Kind: eventLeader, Node: leader.Name})
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	s.add(event{Kind: eventReady, Text: fmt.Sprintf("%d of %d nodes", len(s.plan.Nodes), len(s.plan.Nodes))})
	return nil
}

// fail tells who watches and lets the cluster stand, so that its consoles, logs and
// addresses can be looked at until `lith down`.
func (s *supervisor) fail(ctx context.Context, err error) error {
	s.add(event{Kind: eventFailed, Text: err.Error()})
	<-ctx.Done()
	return err
}

func (s *supervisor) writeState(doors cluster.Doors) error {
	state := clusterState{Name: s.plan.Name, Plaintext: s.plan.Plaintext, Doors: doors, Started: s.began}
	for _, n := range s.plan.Nodes {
		state.Nodes = append(state.Nodes, stateNode{Name: n.Name, Address: n.Address.String(), Master: n.Master})
	}
	return writeJSON(filepath.Join(s.dir, stateFile), state)
}

// report turns a machine's event into one of the supervisor's.
func (s *supervisor) report(e cluster.Event) {
	switch e.Kind {
	case cluster.PoweredOn:
		s.add(event{Node: e.Node, Kind: eventMachine, Text: "power on"})
	case cluster.Phase:
		s.add(event{Node: e.Node, Kind: eventPhase, Text: e.Text})
	case cluster.Up:
		s.add(event{Node: e.Node, Kind: eventMachine, Text: fmt.Sprintf("up after %.1f s", e.Since.Seconds())})
	case cluster.Trouble:
		s.add(event{Node: e.Node, Kind: eventTrouble, Text: e.Text})
	case cluster.Ended:
		s.add(event{Node: e.Node, Kind: eventMachine, Text: "off"})
	}
}

// maxEvents bounds what a watcher who comes late is told.
const maxEvents = 10_000

func (s *supervisor) add(e event) {
	e.At = time.Since(s.began).Seconds()
	s.log.Info("event", "kind", e.Kind, "node", e.Node, "text", e.Text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) < maxEvents || e.Kind == eventReady || e.Kind == eventFailed { // somebody waits for these
		s.events = append(s.events, e)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// routes is what `lith up` and `lith down` ask for on the control socket.
func (s *supervisor) routes(life context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", s.serveEvents)
	mux.HandleFunc("POST /open", s.serveOpen)
	mux.HandleFunc("POST /service", s.serveService(life))
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		s.stop()
	})
	return mux
}

// serveEvents streams all events from the first, one JSON object a line.
func (s *supervisor) serveEvents(w http.ResponseWriter, req *http.Request) {
	enc := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	for next := 0; ; {
		s.mu.Lock()
		fresh, changed := s.events[next:], s.changed
		s.mu.Unlock()
		for _, e := range fresh {
			if err := enc.Encode(e); err != nil {
				return
			}
			next++
		}
		if err := flush.Flush(); err != nil {
			return
		}
		select {
		case <-changed:
		case <-req.Context().Done():
			return
		}
	}
}

// serveOpen opens a port of a node (?address=10.77.0.11:31000) to the host.
func (s *supervisor) serveOpen(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	c, doors := s.cluster, s.doors
	s.mu.Unlock()
	if c == nil {
		http.Error(w, "the cluster is not started yet", http.StatusServiceUnavailable)
		return
	}
	at, err := c.OpenPort(doors, req.FormValue("address"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, at)
}

// operatorTransport makes the transport that speaks to nodes as this directory's
// operator and believes the cluster's root alone.
func operatorTransport(dir string) (func(cluster.DialFunc) http.RoundTripper, error) {
	var files [3][]byte
	for i, name := range []string{operatorCert, operatorKey, anchorFile} {
		var err error
		if files[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("operator's certificate: %w", err)
		}
	}
	return cluster.OperatorTransport(files[0], files[1], files[2])
}
