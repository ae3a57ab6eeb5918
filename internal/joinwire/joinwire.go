// Package joinwire holds both ends of join/1, by which a machine that the cluster file
// admits gets the certificate of its present incarnation: Ask on the machine, Issuer on
// a master.
//
// Invariants: the machine speaks only to a master of its own cluster, by the anchor's
// pin, and takes only a certificate for its own name, incarnation and key; the boot
// credential's proof is bound to the TLS session, so that nobody in the middle can use
// it; the issuer signs nothing for a name that is not in the cluster file, nor while
// another incarnation of that name answers, nor for the one that answers without its key.
//
// Who is admitted, who lives and how a certificate is signed are functions that the
// program hands in (provision/pki signs, clusterd/peers asks who lives).
package joinwire

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/join"
)

// ALPN is the conversation's name.
const ALPN = "join/1"

const (
	protocol   = 1
	maxRequest = 16 << 10
	maxAnswer  = 64 << 10
	talkTime   = 60 * time.Second // the issuer waits for ten heartbeats of a living twin
)

// Errors by which an issuer refuses; the text that wraps them is his.
var (
	ErrUnknownNode     = errors.New("the cluster file does not know this node")
	ErrWrongCredential = errors.New("the boot credential is not this node's")
	ErrAlive           = errors.New("another incarnation of this node is alive")
	ErrNotNow          = errors.New("the issuer cannot sign now")
	ErrRefused         = errors.New("the issuer refused")
)

// Request is what a machine asks for.
type Request struct {
	Anchor      nodedoc.Anchor
	Name        string
	Incarnation string
	CSR         []byte             // PKCS#10, DER; made with the incarnation's key
	Credential  ed25519.PrivateKey // the boot credential
	Now         time.Time          // zero: the machine has no time yet
	// Previous is the key of the certificate that this incarnation has, to renew it; nil:
	// it has none.
	Previous crypto.Signer
}

// Grant is what it gets.
type Grant struct {
	Chain  [][]byte // DER: leaf, issuing, root
	Time   time.Time
	Issuer string
}

// Ask joins at one issuer's address (host:port of the port between nodes).
func Ask(ctx context.Context, address string, r Request) (Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, talkTime)
	defer cancel()
	var issuer nodecert.Peer
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN},
		// The check by host name gives way to one by pinned root, cluster and role.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			p, err := nodecert.VerifyPeer(s, r.Anchor, r.Now)
			if err != nil {
				return err
			}
			if !p.Master() {
				return fmt.Errorf("%s is no master: it issues nothing", p.Name)
			}
			issuer = p
			return nil
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return Grant{}, fmt.Errorf("join at %s: %w", address, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	g, err := talk(conn.(*tls.Conn), r)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return Grant{}, fmt.Errorf("join at %s (%s): %w", issuer.Name, address, err)
	}
	g.Issuer = issuer.Name
	return g, nil
}

func talk(conn *tls.Conn, r Request) (Grant, error) {
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != ALPN {
		return Grant{}, fmt.Errorf("it does not speak %s", ALPN)
	}
	exporter, err := state.ExportKeyingMaterial(nodecert.ExporterLabel, nil, 32)
	if err != nil {
		return Grant{}, fmt.Errorf("bind to the session: %w", err)
	}
	q := &join.Request{
		Protocol: protocol, ClusterId: r.Anchor.ClusterID, Name: r.Name, Incarnation: r.Incarnation,
		Csr: r.CSR, Proof: nodecert.BootProof(r.Credential, exporter, r.CSR),
	}
	if r.Previous != nil {
		if q.Renews, err = signRenewal(r.Previous, exporter, r.CSR); err != nil {
			return Grant{}, err
		}
	}
	if err := wire.Write(conn, q); err != nil {
		return Grant{}, err
	}
	a := &join.Answer{}
	if err := wire.Read(conn, a, maxAnswer); err != nil {
		return Grant{}, fmt.Errorf("wait for the certificate: %w", err)
	}
	if a.GetRefused() != "" || a.GetReason() != join.Reason_REASON_NONE {
		return Grant{}, fmt.Errorf("%w: %.500s", sentinel(a.GetReason()), a.GetRefused())
	}
	g := Grant{Chain: a.GetChain(), Time: time.Unix(0, a.GetTimeUnixNs())}
	if err := checkGrant(g, r); err != nil {
		return Grant{}, err
	}
	return g, nil
}

func sentinel(r join.Reason) error {
	switch r {
	case join.Reason_REASON_UNKNOWN_NODE:
		return ErrUnknownNode
	case join.Reason_REASON_WRONG_CREDENTIAL:
		return ErrWrongCredential
	case join.Reason_REASON_ALIVE:
		return ErrAlive
	case join.Reason_REASON_NOT_NOW:
		return ErrNotNow
	}
	return ErrRefused
}

// checkGrant takes only what was asked for.
func checkGrant(g Grant, r Request) error {
	if len(g.Chain) == 0 || len(g.Chain) > 8 {
		return fmt.Errorf("the answer holds %d certificates", len(g.Chain))
	}
	var chain []*x509.Certificate
	for _, der := range g.Chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate in the answer: %w", err)
		}
		chain = append(chain, cert)
	}
	peer, err := nodecert.VerifyChain(chain, r.Anchor, r.Now)
	if err != nil {
		return fmt.Errorf("certificate in the answer: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return fmt.Errorf("own request: %w", err)
	}
	if peer.Name != r.Name || peer.Incarnation != r.Incarnation || !sameKey(csr.PublicKey, chain[0].PublicKey) {
		return fmt.Errorf("the certificate in the answer is of %s/%s or of another key", peer.Name, peer.Incarnation)
	}
	return nil
}

func sameKey(a, b crypto.PublicKey) bool {
	x, err := x509.MarshalPKIXPublicKey(a)
	if err != nil {
		return false
	}
	y, err := x509.MarshalPKIXPublicKey(b)
	return err == nil && bytes.Equal(x, y)
}

const renewContext = "mesolith renew 1\n"

// renewalText ties a renewal to one session and one request.
func renewalText(exporter, csr []byte) []byte {
	session, request := sha256.Sum256(exporter), sha256.Sum256(csr)
	return append(append([]byte(renewContext), session[:]...), request[:]...)
}

func signRenewal(key crypto.Signer, exporter, csr []byte) ([]byte, error) {
	if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("sign renewal: a node's key is ECDSA, not %T", key.Public())
	}
	sum := sha256.Sum256(renewalText(exporter, csr))
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign renewal: %w", err)
	}
	return signature, nil
}

func verifyRenewal(key crypto.PublicKey, exporter, csr, signature []byte) bool {
	k, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return false
	}
	sum := sha256.Sum256(renewalText(exporter, csr))
	return ecdsa.VerifyASN1(k, sum[:], signature)
}

// session is the TLS session under a connection that package peers gave.
type session interface {
	TLS() (tls.ConnectionState, bool)
}

func exporterOf(c net.Conn) ([]byte, error) {
	var state tls.ConnectionState
	switch c := c.(type) {
	case session:
		s, ok := c.TLS()
		if !ok {
			return nil, errors.New("this connection has no TLS session")
		}
		state = s
	case *tls.Conn:
		state = c.ConnectionState()
	default:
		return nil, errors.New("this connection has no TLS session")
	}
	return state.ExportKeyingMaterial(nodecert.ExporterLabel, nil, 32)
}
