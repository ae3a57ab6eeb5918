package node

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mesolith/mesolith/internal/joinwire"
	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/provision/node/clock"
	"github.com/mesolith/mesolith/provision/node/credentials"
	"github.com/mesolith/mesolith/provision/node/source"
	"github.com/mesolith/mesolith/provision/pki"
)

const (
	addressPatience = 3 * time.Second // for an address to stand in the certificate
	firstJoinPause  = 500 * time.Millisecond
	longestPause    = 30 * time.Second
	peerPort        = "5052"
)

// keepCredentials gets a certificate and renews it, until ctx ends.
func (n *machine) keepCredentials(ctx context.Context) error {
	v, err := n.hub.await(ctx, func(v view) bool { return v.ready })
	if err != nil {
		return err
	}
	if err := n.awaitAddress(ctx); err != nil {
		return err
	}
	found := n.document()
	set, err := credentials.Load(n.cfg.SecretDir, n.who(v.node, found), n.cfg.Clock.Now())
	if err == nil {
		n.cfg.Log.Info("certificate of an earlier start taken up again", "until", set.Leaf.NotAfter.UTC().Format(time.RFC3339))
		n.useKeys(found, set)
	}
	asked := addressesOf(n.hub.view().node) // for which the present one was asked
	pause, lastWhy := firstJoinPause, ""
	for {
		v := n.hub.view()
		who, have := n.who(v.node, found), addressesOf(v.node)
		moved := len(have) > 0 && !slices.Equal(have, asked)
		wait := longestPause
		if set == nil || moved || !set.Covers(who.Addresses) || !n.cfg.Clock.Now().Before(credentials.RenewAt(set.Leaf)) {
			fresh, err := n.issue(ctx, found, who)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				set, asked, pause, lastWhy = fresh, have, firstJoinPause, ""
				n.useKeys(found, set)
				n.console.Say("certificate", "issued for %s, good until %s", who.Name, set.Leaf.NotAfter.UTC().Format(time.RFC3339))
			} else {
				if why := noCertificate(set, err); why != lastWhy {
					lastWhy = why
					n.console.Say("certificate", "%s", why)
					n.cfg.Log.Warn("no certificate", "why", why)
				}
				wait = pause
				pause = min(pause*2, longestPause)
			}
		}
		if err := wakeOr(ctx, v.changed, wait); err != nil {
			return err
		}
	}
}

// noCertificate says why there is none, or no newer one, and whether asking on may help.
func noCertificate(set *credentials.Set, err error) string {
	have := "none yet"
	if set != nil {
		have = "the present one ends at " + set.Leaf.NotAfter.UTC().Format(time.RFC3339) + " and is not renewed"
	}
	for _, refusal := range []error{joinwire.ErrUnknownNode, joinwire.ErrWrongCredential, joinwire.ErrAlive, joinwire.ErrRefused} {
		if errors.Is(err, refusal) {
			return have + ": refused: " + err.Error()
		}
	}
	return have + ": " + err.Error()
}

func addressesOf(v *noded.Node) []netip.Addr {
	var out []netip.Addr
	for _, text := range v.GetAddresses() {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out
}

// wakeOr waits for a change or a time, and at least for a moment, because one change
// seldom comes alone.
func wakeOr(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	case <-changed:
		return sleep(ctx, 50*time.Millisecond)
	}
}

// awaitAddress waits a little for the first address, and on a machine whose own clock
// cannot be believed for a time server, as long as the document allows.
func (n *machine) awaitAddress(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, addressPatience)
	defer cancel()
	_, err := n.hub.await(limited, func(v view) bool { return len(v.node.Addresses) > 0 })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		n.cfg.Log.Info("no address yet, going on without")
	}
	doc := n.document().Document
	if n.hub.view().node.Clock.GetSource() != "floor" || len(doc.Time.Servers) == 0 {
		return nil
	}
	limited, cancelClock := context.WithTimeout(ctx, time.Duration(doc.Time.WaitMS)*time.Millisecond)
	defer cancelClock()
	if _, err := n.hub.await(limited, func(v view) bool { return v.node.Clock.GetSynced() }); err != nil && ctx.Err() == nil {
		n.console.Say("clock", "no time server answered within %d ms; going on with a clock that may be behind", doc.Time.WaitMS)
	}
	return ctx.Err()
}

func (n *machine) document() source.Found {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.found
}

func (n *machine) who(v *noded.Node, f source.Found) credentials.Who {
	w := credentials.Who{
		Anchor: f.Anchor, Name: f.Document.Name, Incarnation: v.Incarnation,
		Master: f.Document.Masters.Has(f.Document.Name),
	}
	if f.Issuer == nil {
		return w // the issuer decides which addresses it believes
	}
	w.Addresses = addressesOf(v)
	return w
}

// issue gets a certificate: from the issuing key of this node's own medium, else from a
// master.
func (n *machine) issue(ctx context.Context, f source.Found, w credentials.Who) (*credentials.Set, error) {
	certify := func(ctx context.Context, csr []byte) ([][]byte, error) { return n.join(ctx, f, w, csr) }
	if f.Issuer != nil {
		issuer, err := pki.OpenIssuer(*f.Issuer, f.Anchor)
		if err != nil {
			return nil, fmt.Errorf("issuer.json from %s: %w", f.Source, err)
		}
		certify = func(_ context.Context, csr []byte) ([][]byte, error) {
			who := pki.Node{Name: w.Name, Incarnation: w.Incarnation, Master: w.Master}
			for _, a := range w.Addresses {
				who.Addresses = append(who.Addresses, net.IP(a.AsSlice()))
			}
			if domain := f.Document.API.Domain; domain != "" {
				who.Names = []string{w.Name + "." + domain}
			}
			return issuer.IssueNode(csr, who, n.cfg.Clock.Now())
		}
	}
	return credentials.Issue(ctx, n.cfg.SecretDir, w, n.cfg.Clock.Now, newNodeKey, certify)
}

func newNodeKey() (*ecdsa.PrivateKey, []byte, error) { return pki.NewNodeKey() }

// join asks the masters; the first one that answers issues.
func (n *machine) join(ctx context.Context, f source.Found, w credentials.Who, csr []byte) ([][]byte, error) {
	if len(f.BootKey) == 0 {
		return nil, fmt.Errorf("%s gave no node.key, so this boot cannot prove that it is %s: put node.key on the medium", f.Source, w.Name)
	}
	key, err := nodecert.ParseBootKey(f.BootKey)
	if err != nil {
		return nil, err
	}
	issuers := n.issuers(f)
	if len(issuers) == 0 {
		return nil, errors.New("no master has been heard on the LAN yet, and the node document names no master's address")
	}
	req := JoinRequest{
		Anchor: f.Anchor, Name: w.Name, Incarnation: w.Incarnation, BootKey: key, CSR: csr, Issuers: issuers,
		Now: n.cfg.Clock.Now(), Previous: n.presentKey(),
	}
	if n.hub.view().node.Clock.GetSource() == "floor" {
		req.Now = time.Time{}
	}
	answer, err := n.cfg.Joiner.Join(ctx, req)
	if err != nil {
		return nil, err
	}
	n.takeTime(f, answer.Time)
	return answer.Chain, nil
}

// presentKey is the key of the certificate that this node has; nil for none.
func (n *machine) presentKey() crypto.Signer {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.keys == nil {
		return nil
	}
	key, _ := n.keys.TLS.PrivateKey.(crypto.Signer)
	return key
}

// issuers are the masters heard on the LAN, then those whose addresses the document says.
func (n *machine) issuers(f source.Found) []Issuer {
	var out []Issuer
	seen := map[string]bool{}
	add := func(name, address string) {
		if !seen[address] && name != f.Document.Name {
			seen[address] = true
			out = append(out, Issuer{Name: name, Address: address})
		}
	}
	for _, h := range n.hub.view().hints {
		if _, err := netip.ParseAddrPort(h.Address); err == nil {
			add(h.Name, h.Address)
		}
	}
	for _, p := range f.Document.Peers {
		if f.Document.Masters.Has(p.Name) {
			add(p.Name, net.JoinHostPort(p.Address, peerPort))
		}
	}
	return out
}

// takeTime believes the issuer's clock when this machine has no better one.
func (n *machine) takeTime(f source.Found, issuer time.Time) {
	now := n.cfg.Clock.Now()
	if issuer.IsZero() || n.hub.view().node.Clock.GetSynced() || issuer.Before(n.floor(f.Document.SignedAt)) {
		return
	}
	const near = 2 * time.Second
	if off := issuer.Sub(now); off.Abs() > near {
		if err := n.cfg.Clock.Step(issuer); err != nil {
			n.cfg.Log.Error("clock not set to the issuer's", "error", err)
			return
		}
		n.console.Say("clock", "moved by %s to the master's time", off.Round(time.Second))
	}
	// From now on certificates are judged by time here too.
	n.clockChanged(clock.State{Source: "master", Offset: issuer.Sub(now)})
}

// useKeys hands key and certificate to the node API and to clusterd.
func (n *machine) useKeys(f source.Found, set *credentials.Set) {
	n.mu.Lock()
	n.keys = set
	n.mu.Unlock()
	out := &noded.Credentials{KeyPem: set.KeyPEM, CertificatePem: set.ChainPEM, CaPem: set.RootPEM}
	if f.Issuer != nil {
		out.IssuingKeyPem, out.IssuingCertificatePem = []byte(f.Issuer.IssuingKeyPEM), []byte(f.Issuer.IssuingCertPEM)
		creds, err := json.Marshal(f.Issuer.APICredentials)
		if err != nil {
			n.cfg.Log.Error("API credentials not handed on", "error", err)
		}
		out.ApiCredentials = creds
	}
	n.hub.change(func(v *noded.Node) { v.Credentials = out })
	n.sayAddress() // the node API shows another certificate now
}
