package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/discovery"
	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/clusterd/machine"
	"github.com/mesolith/mesolith/clusterd/peers"
	"github.com/mesolith/mesolith/clusterd/zookeeper"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/provision/node"
	"golang.org/x/sync/errgroup"
)

// Places on a node; they are part of the image.
const (
	nodedSocket  = "/run/mesolith/noded.sock"
	keeperSocket = "/run/mesolith/isolated.sock"
	dataDir      = "/var/lib/mesolith/clusterd"
	workDir      = "/var/lib/mesos"
	apiPort      = 5050
	peerPort     = 5052
)

func runNoded(args []string) int { return node.Main(args) }

// identity holds what noded says that changes while clusterd runs.
type identity struct {
	mu   sync.Mutex
	cert *tls.Certificate
	node *noded.Node
}

func (i *identity) certificate() *tls.Certificate {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cert
}

// now is the zero time while this node has none: then only chains are judged.
func (i *identity) now() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	if c := i.node.GetClock(); c != nil && c.GetSource() == "floor" && !c.GetSynced() {
		return time.Time{}
	}
	return time.Now()
}

// admitted is what an operator said to this machine of other masters' hardware.
func (i *identity) admitted() map[string]birth.Word {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := map[string]birth.Word{}
	for _, a := range i.node.GetAdmitted() {
		out[a.GetMaster()] = birth.Word{Hardware: a.GetHardware(), Instead: a.GetInstead()}
	}
	return out
}

func (i *identity) take(n *noded.Node) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.node = n
	c := n.GetCredentials()
	if c == nil {
		return nil
	}
	cert, err := peers.Certificate(c.GetKeyPem(), c.GetCertificatePem(), c.GetCaPem())
	if err != nil {
		return err
	}
	i.cert = cert
	return nil
}

// runNode is clusterd on a node of the image.
func runNode(ctx context.Context, log *slog.Logger) error {
	listeners, err := inherited()
	if err != nil {
		return err
	}
	client := machine.New(nodedSocket, log.With("room", "machine"))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return client.Run(ctx) })
	g.Go(func() error { return nodeLife(ctx, client, listeners, log) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// inherited takes the sockets that init holds open over our lives.
func inherited() (map[string]net.Listener, error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil, errors.New("--node: LISTEN_FDS is not set; init starts clusterd on a node (elsewhere: --dev)")
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	out := map[string]net.Listener{}
	for i := range n {
		f := os.NewFile(uintptr(3+i), "inherited")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("--node: inherited descriptor %d is no listening socket: %w", 3+i, err)
		}
		if i < len(names) {
			out[names[i]] = l
		}
	}
	for _, want := range []string{"api", "agent", "peer"} {
		if out[want] == nil {
			return nil, fmt.Errorf("--node: LISTEN_FDNAMES names no socket %q", want)
		}
	}
	return out, nil
}

func nodeLife(ctx context.Context, client *machine.Client, listeners map[string]net.Listener, log *slog.Logger) error {
	n, err := client.Wait(ctx, func(n *noded.Node) bool {
		return len(n.GetDocument()) > 0 && len(n.GetAddresses()) > 0 && n.GetIncarnation() != "" && n.GetInventory() != nil
	})
	if err != nil {
		return err
	}
	var anchor nodedoc.Anchor
	if err := json.Unmarshal(n.GetAnchor(), &anchor); err != nil {
		return fmt.Errorf("read anchor: %w", err)
	}
	doc, err := nodedoc.Open(n.GetDocument(), anchor)
	if err != nil {
		return fmt.Errorf("open node document: %w", err)
	}
	who := &identity{}
	if err := who.take(n); err != nil {
		return err
	}
	table, err := newTable(n, doc, anchor, who, log)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return hearBeacons(ctx, table, log) })
	g.Go(func() error { return follow(ctx, client, who, n.GetAddresses()[0], log) })
	g.Go(func() error { hint(ctx, client, table); return nil })
	g.Go(func() error {
		m, err := nodeMembership(ctx, client, listeners, doc, anchor, who, table, log)
		if err != nil {
			return err
		}
		return m.run(ctx)
	})
	return g.Wait()
}

func newTable(n *noded.Node, doc nodedoc.Document, anchor nodedoc.Anchor, who *identity, log *slog.Logger) (*discovery.Table, error) {
	address, err := netip.ParsePrefix(n.GetAddresses()[0])
	if err != nil {
		return nil, fmt.Errorf("own address %q: %w", n.GetAddresses()[0], err)
	}
	broadcast, err := discovery.BroadcastOf(n.GetAddresses()[0])
	if err != nil {
		return nil, err
	}
	cfg := discovery.Config{
		Name: doc.Name, Incarnation: n.GetIncarnation(), Addresses: []string{netip.AddrPortFrom(address.Addr(), peerPort).String()},
		Anchor: anchor, Certificate: who.certificate, Now: who.now, Broadcast: []netip.AddrPort{broadcast}, Log: log.With("room", "discovery"),
	}
	for _, p := range doc.Peers {
		cfg.Static = append(cfg.Static, discovery.Static{Name: p.Name, Address: net.JoinHostPort(p.Address, strconv.Itoa(peerPort))})
	}
	return discovery.New(cfg), nil
}

func hearBeacons(ctx context.Context, table *discovery.Table, log *slog.Logger) error {
	conn, err := net.ListenPacket("udp4", ":"+strconv.Itoa(discovery.Port))
	if err != nil {
		return fmt.Errorf("listen for beacons: %w", err)
	}
	return table.Run(ctx, conn)
}

// errMoved ends a clusterd whose node has another address now. It is in every beacon,
// offer and connection; started again it comes back as itself with the new one.
var errMoved = errors.New("this node's address changed; starting again with the new one")

// follow takes renewed certificates as noded gets them, until the node's first address is
// another one. None at all, a lease that ran out, is borne: it may come back.
func follow(ctx context.Context, client *machine.Client, who *identity, address string, log *slog.Logger) error {
	for {
		n, changed := client.Node()
		if n != nil {
			if err := who.take(n); err != nil {
				log.Error("credentials of noded", "error", err)
			}
			if now := n.GetAddresses(); len(now) > 0 && now[0] != address {
				return fmt.Errorf("%w: %s, before %s", errMoved, now[0], address)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// hint tells noded where issuers were heard, as long as it has no certificate.
func hint(ctx context.Context, client *machine.Client, table *discovery.Table) {
	for {
		h := &noded.PeerHints{}
		for _, s := range table.Hints() {
			h.Issuers = append(h.Issuers, &noded.Issuer{Name: s.Name, Address: s.Address})
		}
		client.Hint(h)
		select {
		case <-ctx.Done():
			return
		case <-table.Changed():
		case <-time.After(time.Second):
		}
	}
}

func nodeMembership(ctx context.Context, client *machine.Client, listeners map[string]net.Listener, doc nodedoc.Document, anchor nodedoc.Anchor, who *identity, table *discovery.Table, log *slog.Logger) (membership, error) {
	n, err := client.Wait(ctx, func(n *noded.Node) bool { return n.GetCredentials() != nil })
	if err != nil {
		return membership{}, err
	}
	if err := who.take(n); err != nil {
		return membership{}, err
	}
	address, err := netip.ParsePrefix(n.GetAddresses()[0])
	if err != nil {
		return membership{}, fmt.Errorf("own address %q: %w", n.GetAddresses()[0], err)
	}
	var credentials nodedoc.APICredentials
	if raw := n.GetCredentials().GetApiCredentials(); len(raw) > 0 {
		if err := json.Unmarshal(raw, &credentials); err != nil {
			return membership{}, fmt.Errorf("read API credentials: %w", err)
		}
	}
	policy, err := auth.PolicyOf(doc.API, &anchor, credentials)
	if err != nil {
		return membership{}, err
	}
	issuing, err := newIssuer(n, anchor)
	if err != nil {
		return membership{}, err
	}
	lookup, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	closed, err := agent.Provisioning(lookup, n.GetSource(), net.DefaultResolver.LookupNetIP)
	if err != nil {
		log.Warn("the service that this node got its document from is not closed to tasks", "source", n.GetSource(), "error", err)
	}
	var shim func(context.Context) (net.Listener, error)
	if doc.ZooKeeper != "" {
		shim = func(ctx context.Context) (net.Listener, error) { return listenZooKeeper(ctx, zookeeper.Port, log) }
	}
	return membership{
		issuer: issuing, doc: doc, anchor: &anchor, incarnation: n.GetIncarnation(), bootID: n.GetBootId(), hardware: n.GetHardwareHash(), admitted: who.admitted, address: address.Addr().String(), mtu: n.GetMtu(), closed: closed,
		apiPort: apiPort, agentPort: apiPort + 1, dataDir: dataDir, workDir: workDir, keeper: keeperSocket, inventory: n.GetInventory(),
		api: listeners["api"], agentAPI: listeners["agent"], peer: listeners["peer"], zookeeper: shim,
		certificate: who.certificate, policy: policy, resolve: table.Resolve, now: who.now, report: client.Report,
		apiAddress: func(name string) string {
			for _, a := range table.Resolve(name) {
				if host, _, err := net.SplitHostPort(a); err == nil {
					return net.JoinHostPort(host, strconv.Itoa(apiPort))
				}
			}
			return ""
		},
		announce: table.Announce, twin: table.Twin, known: table.Known, log: log,
	}, nil
}
