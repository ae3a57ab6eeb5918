// Package node is noded, the machine's own side of a Mesolith node: it finds out who the
// node is, gives it its place on the LAN and the time, tells PID 1 what the machine is to
// be, keeps the node's key and certificate, answers the node API on port 5053, and says
// on the console what it does and waits for. clusterd hears all of it over noded.sock.
//
// Invariant: without a valid, signed node document nothing is configured but what
// fetching one needs (DHCP, when the kernel's command line names a URL); the node stays
// up and says what it looked for. No phase waits for ever, and noded may be killed at
// any moment: addresses stay, and the incarnation and the key are taken up again.
//
// Main runs it on a node; Run takes everything that touches the machine from its Config.
// It runs no task and speaks no Raft (clusterd), mounts and supervises nothing (init).
package node

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/provision/node/clock"
	"github.com/mesolith/mesolith/provision/node/console"
	"github.com/mesolith/mesolith/provision/node/credentials"
	"github.com/mesolith/mesolith/provision/node/identity"
	"github.com/mesolith/mesolith/provision/node/inventory"
	"github.com/mesolith/mesolith/provision/node/lan"
	"github.com/mesolith/mesolith/provision/node/source"
)

// Network gives the machine its place on the LAN.
type Network interface {
	// Run keeps the networks as the newest list says, until ctx ends.
	Run(ctx context.Context, wants <-chan []nodedoc.Network) error
	// Named tells the name by which DHCP servers shall know this node.
	Named(hostname string)
	// Nics lists the network cards.
	Nics() ([]*noded.Nic, error)
}

// Joiner has this node's key certified by a master (join/1).
type Joiner interface {
	Join(ctx context.Context, req JoinRequest) (JoinAnswer, error)
}

// JoinRequest is what a node asks a master for.
type JoinRequest struct {
	Anchor            nodedoc.Anchor
	Name, Incarnation string
	BootKey           ed25519.PrivateKey
	CSR               []byte   // DER
	Issuers           []Issuer // in the order in which to ask
	// Now is zero on a machine that does not know the time: the chain is then believed
	// by its pin alone.
	Now time.Time
	// Previous is the key of the certificate that is to be renewed; nil at first.
	Previous crypto.Signer
}

// Issuer is a master that may be asked.
type Issuer struct {
	Name, Address string // address with port
}

// JoinAnswer is what a master gave.
type JoinAnswer struct {
	Chain [][]byte  // leaf, issuing, root; DER
	Time  time.Time // the master's clock; zero: it has none
}

// Config is all that noded touches of the machine.
type Config struct {
	Root        string // "/" on a node: /proc, /sys and /dev below it are read
	CommandLine string // the kernel's
	Socket      string // noded.sock
	InitSocket  string
	SecretDir   string // in memory, for restarts of noded
	LogDir      string
	Kmsg        string // the kernel's log
	StateDir    string
	WorkDir     string

	StateMounted func() bool // init has mounted StateDir
	LocalUIDs    []uint32    // who may speak on noded.sock
	API          net.Listener
	Plan         io.WriteCloser // to init; nil: there is none
	Console      io.Writer
	Network      func(say func(subject, line string), changed func(lan.State)) Network
	Clock        clock.Machine
	AskTime      func(ctx context.Context, server string) (time.Duration, error)
	Signal       func(pid int, sig syscall.Signal) error
	HTTP         *http.Client
	Joiner       Joiner
	Log          *slog.Logger
}

// machine is one run of noded.
type machine struct {
	cfg     Config
	console *console.Console
	image   imageInfo
	hub     *hub
	network Network
	wants   chan []nodedoc.Network
	nudged  chan struct{} // 1: the inventory is to be taken again
	api     *apiServer

	mu    sync.Mutex
	found source.Found // zero until there is a document
	lan   lan.State
	clock clock.State
	keys  *credentials.Set // nil until issued
}

// Run lives until ctx ends or a part of it fails.
func Run(ctx context.Context, cfg Config) error {
	n := &machine{cfg: cfg, console: console.New(cfg.Console), wants: make(chan []nodedoc.Network, 1), nudged: make(chan struct{}, 1)}
	var err error
	if n.image, err = readImage(cfg.Root); err != nil {
		cfg.Log.Warn("image unknown", "error", err)
	}
	n.hub = newHub(&noded.Node{
		BootId:   readLine(cfg.Root, "proc/sys/kernel/random/boot_id"),
		StateDir: cfg.StateDir, WorkDir: cfg.WorkDir, Clock: &noded.Clock{Source: "rtc"},
	})
	n.network = cfg.Network(func(subject, line string) { n.console.Say(subject, "%s", line) }, n.lanChanged)
	if n.api, err = newAPI(n); err != nil {
		return err
	}
	return n.together(ctx, map[string]func(context.Context) error{
		"network":     func(ctx context.Context) error { return n.network.Run(ctx, n.wants) },
		"socket":      n.serveLocal,
		"node API":    n.api.serve,
		"start":       n.start,
		"credentials": n.keepCredentials,
	})
}

// together runs all parts until one ends or fails, and waits for all.
func (n *machine) together(ctx context.Context, parts map[string]func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for name, part := range parts {
		running.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	running.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// start finds the document and makes the machine what it says; then it keeps the clock.
func (n *machine) start(ctx context.Context) error {
	found, err := n.findDocument(ctx)
	if err != nil {
		return err
	}
	doc := found.Document
	n.setFloor(doc.SignedAt)
	n.mu.Lock()
	n.found = found
	n.mu.Unlock()
	n.console.Say("node", "%s of cluster %s (revision %d, from %s)", doc.Name, doc.Cluster, doc.Revision, found.Source)
	n.network.Named(doc.Name)
	n.want(doc.Networks)
	store, err := n.sendPlan(doc)
	if err != nil {
		// A restarted noded finds that init has its plan already.
		n.cfg.Log.Warn("node plan not sent", "error", err)
	}
	n.takeStock(store)
	if err := n.publish(ctx, found); err != nil {
		return err
	}
	k := &clock.Keeper{
		Machine: n.cfg.Clock, Floor: n.floor(doc.SignedAt), Servers: n.timeServers, Changed: n.clockChanged,
		Log: n.cfg.Log, Query: n.cfg.AskTime,
	}
	return n.together(ctx, map[string]func(context.Context) error{"clock": k.Run, "inventory": n.keepInventory})
}

// publish makes the node known to clusterd.
func (n *machine) publish(ctx context.Context, found source.Found) error {
	id, err := n.incarnation(ctx)
	if err != nil {
		return err
	}
	anchor, err := found.Anchor.Encode()
	if err != nil {
		return err
	}
	hardware := identity.Read(n.cfg.Root).Hash() // drivers have found the cards by now
	n.hub.change(func(v *noded.Node) {
		v.HardwareHash = hardware
		v.Document, v.Anchor, v.ClusterDocument = found.Node, anchor, found.Cluster
		v.Source, v.Incarnation = found.Source, id
	})
	n.hub.setReady()
	return nil
}

// want hands the network the newest list of networks.
func (n *machine) want(networks []nodedoc.Network) {
	select {
	case <-n.wants:
	default:
	}
	n.wants <- networks
}

func (n *machine) lanChanged(s lan.State) {
	n.mu.Lock()
	n.lan = s
	n.mu.Unlock()
	var addresses []string
	for _, a := range s.Addresses {
		addresses = append(addresses, a.String())
	}
	n.hub.change(func(v *noded.Node) { v.Addresses, v.Mtu = addresses, uint32(max(s.MTU, 0)) })
	select {
	case n.nudged <- struct{}{}: // cards have carrier and addresses now
	default:
	}
	n.sayAddress()
}

// sayAddress tells where the node API is and what its certificate looks like.
func (n *machine) sayAddress() {
	if addresses := n.hub.view().node.Addresses; len(addresses) > 0 {
		n.console.Say("address", "%s; node API on port 5053 (certificate %s)", joinLines(addresses), n.api.fingerprint())
	}
}

func (n *machine) setStatus(s *noded.ClusterStatus) {
	n.hub.setStatus(s)
	if s.Summary != "" {
		n.console.Say("cluster", "%s", s.Summary)
	}
}

// takeStock reads the inventory; store is the size of the ramStore that init was told.
func (n *machine) takeStock(store uint64) {
	nics, err := n.network.Nics()
	if err != nil {
		n.cfg.Log.Warn("network cards not listed", "error", err)
	}
	fresh := inventory.Read(n.cfg.Root, nics)
	n.hub.change(func(v *noded.Node) {
		fresh.RamStoreBytes = store
		v.Inventory = fresh
	})
}

const stockEvery = time.Minute

// keepInventory looks again from time to time: cards and disks come and go.
func (n *machine) keepInventory(ctx context.Context) error {
	for {
		if err := wakeOr(ctx, n.nudged, stockEvery); err != nil {
			return err
		}
		n.takeStock(n.hub.view().node.GetInventory().GetRamStoreBytes())
	}
}
