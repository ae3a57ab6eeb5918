package discovery

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/beacon"
	"google.golang.org/protobuf/proto"
)

const (
	maxDatagram   = 4096
	maxChain      = 3
	maxAddresses  = 4
	beaconContext = "mesolith beacon 1\n"
	protocol      = 1
)

// compose makes the datagram of this moment.
func (t *Table) compose(cert *tls.Certificate) ([]byte, error) {
	t.mu.Lock()
	// Real time makes a restarted program go on above its predecessor.
	t.sequence = max(t.sequence+1, uint64(time.Now().UnixNano()))
	b := &beacon.Beacon{
		Protocol: protocol, ClusterId: t.cfg.Anchor.ClusterID, Name: t.cfg.Name, Incarnation: t.cfg.Incarnation,
		Addresses: t.cfg.Addresses, Sequence: t.sequence, Master: t.own.Master, ListVersion: t.own.ListVersion,
		Height: t.own.Height, Generation: t.own.Generation, Term: t.own.Term, Leading: t.own.Leading, Leader: t.own.Leader,
	}
	t.mu.Unlock()
	text, err := proto.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode beacon: %w", err)
	}
	signature, err := sign(cert.PrivateKey, text)
	if err != nil {
		return nil, fmt.Errorf("sign beacon: %w", err)
	}
	d := &beacon.Datagram{Beacon: text, Signature: signature, Chain: cert.Certificate[:max(1, len(cert.Certificate)-1)]}
	packet, err := proto.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode beacon: %w", err)
	}
	if len(packet) > maxDatagram {
		return nil, fmt.Errorf("beacon of %d bytes is longer than %d", len(packet), maxDatagram)
	}
	return packet, nil
}

func sign(key crypto.PrivateKey, text []byte) ([]byte, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of type %T cannot sign", key)
	}
	text = append([]byte(beaconContext), text...)
	if _, ok := signer.Public().(ed25519.PublicKey); ok {
		return signer.Sign(rand.Reader, text, crypto.Hash(0))
	}
	sum := sha256.Sum256(text)
	return signer.Sign(rand.Reader, sum[:], crypto.SHA256)
}

func verify(key crypto.PublicKey, text, signature []byte) bool {
	text = append([]byte(beaconContext), text...)
	switch key := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, text, signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(text)
		return ecdsa.VerifyASN1(key, sum[:], signature)
	}
	return false
}

// parse reads a datagram within its bounds; nothing of it is verified.
func parse(packet []byte) (*beacon.Datagram, *beacon.Beacon, error) {
	if len(packet) > maxDatagram {
		return nil, nil, fmt.Errorf("datagram is longer than %d bytes", maxDatagram)
	}
	d := &beacon.Datagram{}
	if err := proto.Unmarshal(packet, d); err != nil {
		return nil, nil, fmt.Errorf("decode datagram: %w", err)
	}
	b := &beacon.Beacon{}
	if err := proto.Unmarshal(d.GetBeacon(), b); err != nil {
		return nil, nil, fmt.Errorf("decode beacon: %w", err)
	}
	switch {
	case b.GetProtocol() != protocol:
		return nil, nil, fmt.Errorf("beacon of protocol %d; %d is understood", b.GetProtocol(), protocol)
	case !nodedoc.ValidClusterID(b.GetClusterId()):
		return nil, nil, errors.New("malformed cluster id")
	case !nodedoc.ValidName(b.GetName()) || !nodecert.ValidIncarnation(b.GetIncarnation()):
		return nil, nil, errors.New("malformed name or incarnation")
	case len(d.GetChain()) == 0 || len(d.GetChain()) > maxChain:
		return nil, nil, fmt.Errorf("%d certificates, not 1 to %d", len(d.GetChain()), maxChain)
	case len(b.GetAddresses()) == 0 || len(b.GetAddresses()) > maxAddresses:
		return nil, nil, fmt.Errorf("%d addresses, not 1 to %d", len(b.GetAddresses()), maxAddresses)
	case b.GetLeader() != "" && !nodedoc.ValidName(b.GetLeader()):
		return nil, nil, errors.New("malformed name of a leader")
	case len(b.GetGeneration()) > 64:
		return nil, nil, errors.New("malformed generation")
	}
	for _, a := range b.GetAddresses() {
		if ap, err := netip.ParseAddrPort(a); err != nil || ap.Addr().IsMulticast() || ap.Addr().IsUnspecified() {
			return nil, nil, errors.New("malformed address")
		}
	}
	return d, b, nil
}

// hear takes one datagram in.
func (t *Table) hear(packet []byte, from net.Addr) {
	d, b, err := parse(packet)
	if err != nil {
		t.rumours.say("malformed "+hostOf(from), "beacon cannot be read", "from", hostOf(from), "why", err.Error())
		return
	}
	if b.GetClusterId() != t.cfg.Anchor.ClusterID {
		t.rumours.say(b.GetClusterId(), "another cluster speaks on this LAN; it is left alone", "cluster", b.GetClusterId(), "node", b.GetName(), "from", hostOf(from))
		return
	}
	own := t.cfg.Certificate()
	if own == nil {
		t.rumour(b)
		return
	}
	key, err := t.checked.check(d.GetChain(), own.Certificate[len(own.Certificate)-1], t.cfg.Anchor, t.cfg.Now(), b)
	if err == nil && !verify(key, d.GetBeacon(), d.GetSignature()) {
		err = errors.New("the signature is not its certificate's")
	}
	if err != nil {
		t.rumours.say("unproven "+b.GetName(), "beacon is not believed", "node", b.GetName(), "from", hostOf(from), "why", err.Error())
		return
	}
	t.take(b)
}

// rumour keeps where a master might be.
func (t *Table) rumour(b *beacon.Beacon) {
	if !b.GetMaster() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.hints[b.GetName()]; !ok && len(t.hints) >= maxHints {
		for name, h := range t.hints {
			if time.Since(h.at) > replayAfter {
				delete(t.hints, name)
			}
		}
		if len(t.hints) >= maxHints {
			return
		}
	}
	if old, ok := t.hints[b.GetName()]; !ok || old.address != b.GetAddresses()[0] {
		t.tell()
	}
	t.hints[b.GetName()] = hint{b.GetAddresses()[0], time.Now()}
}

// tell wakes who waits for changes; t.mu is held.
func (t *Table) tell() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// take believes a beacon.
func (t *Table) take(b *beacon.Beacon) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if b.GetName() == t.cfg.Name {
		if b.GetIncarnation() != t.cfg.Incarnation {
			t.twin = twin{b.GetIncarnation(), b.GetAddresses()[0], now}
			t.rumours.say("twin "+b.GetIncarnation(), "another incarnation of this node's own name speaks on the LAN", "incarnation", b.GetIncarnation(), "address", b.GetAddresses()[0])
		}
		return
	}
	e := t.nodes[b.GetName()]
	if e == nil {
		if len(t.nodes) >= maxNodes && !t.forget(now) {
			return
		}
		e = &entry{}
		t.nodes[b.GetName()] = e
	}
	if e.Incarnation == b.GetIncarnation() && b.GetSequence() <= e.sequence && now.Sub(e.Heard) < replayAfter {
		return
	}
	next := Node{
		Name: b.GetName(), Incarnation: b.GetIncarnation(), Addresses: b.GetAddresses(), Heard: now,
		Announcement: Announcement{
			Master: b.GetMaster(), ListVersion: b.GetListVersion(), Height: b.GetHeight(), Generation: b.GetGeneration(),
			Term: b.GetTerm(), Leading: b.GetLeading(), Leader: b.GetLeader(),
		},
	}
	if e.Incarnation != next.Incarnation || e.Announcement != next.Announcement || now.Sub(e.Heard) > freshFor {
		t.tell()
	}
	if !slices.Equal(e.Addresses, next.Addresses) {
		t.moveHosts(e.Name, e.Addresses, next)
	}
	e.Node, e.sequence = next, b.GetSequence()
}

// moveHosts keeps the addresses that nodes were heard of.
func (t *Table) moveHosts(name string, before []string, next Node) {
	for _, a := range before {
		if host, _, err := net.SplitHostPort(a); err == nil && t.hosts[host] == name {
			delete(t.hosts, host)
		}
	}
	for _, a := range next.Addresses {
		if host, _, err := net.SplitHostPort(a); err == nil {
			t.hosts[host] = next.Name
		}
	}
}

// forget makes room of those not heard for long.
func (t *Table) forget(now time.Time) bool {
	before := len(t.nodes)
	for name, e := range t.nodes {
		if now.Sub(e.Heard) > forgetAfter {
			t.moveHosts(name, e.Addresses, Node{})
			delete(t.nodes, name)
		}
	}
	return len(t.nodes) < before
}

// chains remembers which leaves were verified: the same one comes every second.
type chains struct {
	mu    sync.Mutex
	known map[[32]byte]checkedChain // by the leaf's hash; at most maxNodes
}

type checkedChain struct {
	peer nodecert.Peer
	key  crypto.PublicKey
	till time.Time
}

func (c *chains) check(chain [][]byte, root []byte, a nodedoc.Anchor, now time.Time, b *beacon.Beacon) (crypto.PublicKey, error) {
	id := sha256.Sum256(chain[0])
	c.mu.Lock()
	known, ok := c.known[id]
	c.mu.Unlock()
	if !ok || !now.IsZero() && now.After(known.till) {
		certs := make([]*x509.Certificate, 0, len(chain)+1)
		for _, der := range append(chain[:len(chain):len(chain)], root) {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("certificate: %w", err)
			}
			if len(certs) > 0 && bytes.Equal(der, certs[len(certs)-1].Raw) {
				continue
			}
			certs = append(certs, cert)
		}
		peer, err := nodecert.VerifyChain(certs, a, now)
		if err != nil {
			return nil, err
		}
		known = checkedChain{peer, certs[0].PublicKey, certs[0].NotAfter}
		c.mu.Lock()
		if len(c.known) >= maxNodes {
			clear(c.known)
		}
		c.known[id] = known
		c.mu.Unlock()
	}
	switch {
	case known.peer.Operator || known.peer.Name != b.GetName() || known.peer.Incarnation != b.GetIncarnation():
		return nil, fmt.Errorf("the certificate is of %s/%s", known.peer.Name, known.peer.Incarnation)
	case (b.GetMaster() || b.GetLeading()) && !known.peer.Master():
		return nil, errors.New("it claims to be a master, and its certificate does not")
	}
	return known.key, nil
}

// rumours says what was heard and not believed, once a minute each.
type rumours struct {
	log  *slog.Logger
	mu   sync.Mutex
	said map[string]time.Time // at most maxSaid
}

const maxSaid = 256

func (r *rumours) say(key, text string, attributes ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.said[key]; ok && time.Since(last) < time.Minute {
		return
	}
	if len(r.said) >= maxSaid { // a flood of names: be silent until the minute is over
		for k, at := range r.said {
			if time.Since(at) > time.Minute {
				delete(r.said, k)
			}
		}
		if len(r.said) >= maxSaid {
			return
		}
	}
	if r.said == nil {
		r.said = map[string]time.Time{}
	}
	r.said[key] = time.Now()
	r.log.Warn(text, attributes...)
}

func hostOf(a net.Addr) string {
	if a == nil {
		return "?"
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}
