package peers

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Certificate joins what noded hands over: the key, the chain (leaf first) and the root,
// which the other end needs in order to compare it with its anchor's pin.
func Certificate(keyPEM, chainPEM, rootPEM []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(chainPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read own certificate: %w", err)
	}
	root, _ := pem.Decode(rootPEM)
	if root == nil {
		return nil, errors.New("read own certificate: the root is missing or not PEM")
	}
	if last := cert.Certificate[len(cert.Certificate)-1]; !bytes.Equal(last, root.Bytes) {
		cert.Certificate = append(cert.Certificate, root.Bytes)
	}
	return &cert, nil
}

// greetTLS is the called side. The chain is judged after the handshake, so that a caller
// who is refused can be told why in a sentence.
func (m *Mux) greetTLS(ctx context.Context, conn net.Conn) (*Conn, string, error) {
	cert := m.cfg.Certificate()
	if cert == nil {
		return nil, "", ErrNoCertificate
	}
	var all []string
	for _, c := range conversations {
		all = append(all, c.alpn)
	}
	base := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}, NextProtos: all,
		ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
	}
	base.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(h.SupportedProtos) != 1 {
			return nil, fmt.Errorf("caller offers %d conversations, not one", min(len(h.SupportedProtos), 1000))
		}
		if h.SupportedProtos[0] != Join {
			return nil, nil
		}
		own := base.Clone()
		own.ClientAuth = tls.NoClientCert
		return own, nil
	}
	t := tls.Server(conn, base)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, "", fmt.Errorf("handshake: %w", err)
	}
	state := t.ConnectionState()
	c := &Conn{Conn: t}
	if state.NegotiatedProtocol == Join {
		return c, Join, nil
	}
	peer, err := nodecert.VerifyPeer(state, m.cfg.Anchor, m.cfg.Now())
	if err != nil {
		return c, state.NegotiatedProtocol, explain(err, state.PeerCertificates, m.cfg.Anchor)
	}
	c.peer = peer
	return c, state.NegotiatedProtocol, nil
}

// explain makes of a chain that does not hold a sentence that says what to look at.
func explain(err error, chain []*x509.Certificate, a nodedoc.Anchor) error {
	if errors.Is(err, nodecert.ErrOtherRoot) {
		other := "an unknown cluster"
		if len(chain) > 0 && len(chain[0].URIs) == 1 {
			other = fmt.Sprintf("cluster %.64q", chain[0].URIs[0].Host)
		}
		return fmt.Errorf("%w: certificate of %s on the LAN of cluster %s (%s): %w", ErrRefused, other, a.Cluster, a.ClusterID, err)
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

// Dial reaches a node by its name for one conversation. What comes back, a *Conn, has
// been welcomed by the other end.
func (m *Mux) Dial(ctx context.Context, name, alpn string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	addresses := m.resolve(name)
	if len(addresses) == 0 {
		return nil, fmt.Errorf("dial %s for %s: %w", name, alpn, ErrUnknownName)
	}
	var failures []error
	for _, address := range addresses {
		c, err := m.dialAddress(ctx, address, name, alpn)
		if err == nil {
			return c, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || errors.Is(err, ErrRefused) {
			break
		}
	}
	return nil, fmt.Errorf("dial %s for %s: %w", name, alpn, errors.Join(failures...))
}

// Lives says which incarnation answers under a name at present, with the key of its
// certificate: proven by a handshake made now, whatever it thinks of the call. Without
// TLS nothing can be proven.
func (m *Mux) Lives(ctx context.Context, name string) (incarnation string, key crypto.PublicKey, ok bool) {
	for _, address := range m.resolve(name) {
		if incarnation, key, ok = m.LivesAt(ctx, name, address); ok {
			return incarnation, key, ok
		}
	}
	return "", nil, false
}

// LivesAt is Lives for whoever is at one address.
func (m *Mux) LivesAt(ctx context.Context, name, address string) (incarnation string, key crypto.PublicKey, ok bool) {
	if m.cfg.Plain {
		return "", nil, false
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", nil, false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c, _ := m.call(ctx, conn, name, Agent) // with c the handshake is made, welcome or not
	if c == nil {
		return "", nil, false
	}
	state, ok := c.TLS()
	if !ok || len(state.PeerCertificates) == 0 {
		return "", nil, false
	}
	return c.peer.Incarnation, state.PeerCertificates[0].PublicKey, true
}

func (m *Mux) resolve(name string) []string {
	if name == m.cfg.Self.Name {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.own == "" {
			return nil
		}
		return []string{m.own}
	}
	return m.cfg.Resolve(name)
}

func (m *Mux) dialAddress(ctx context.Context, address, name, alpn string) (*Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tune(conn)
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, err := m.call(ctx, conn, name, alpn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	conn.SetDeadline(time.Time{})
	return c, nil
}

// call is the calling side of the handshake.
func (m *Mux) call(ctx context.Context, conn net.Conn, name, alpn string) (*Conn, error) {
	if m.cfg.Plain {
		return m.callPlain(conn, name, alpn)
	}
	cert := m.cfg.Certificate()
	if cert == nil {
		return nil, ErrNoCertificate
	}
	var peer nodecert.Peer
	t := tls.Client(conn, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}, NextProtos: []string{alpn},
		// The check by host name gives way to one by pinned root, cluster and name.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			p, err := nodecert.VerifyPeer(s, m.cfg.Anchor, m.cfg.Now())
			if err != nil {
				return explain(err, s.PeerCertificates, m.cfg.Anchor)
			}
			if p.Name != name || p.Operator {
				return fmt.Errorf("%w: %s answers under the address of %s", ErrRefused, p.Name, name)
			}
			peer = p
			return nil
		},
	})
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if got := t.ConnectionState().NegotiatedProtocol; got != alpn {
		return nil, fmt.Errorf("%w: %s speaks %.40q, not %s", ErrRefused, name, got, alpn)
	}
	c := &Conn{Conn: t, peer: peer}
	if alpn == Join {
		return c, nil
	}
	_, _, err := readWelcome(c)
	return c, err
}

// plainHello begins every connection of --dev: MESOLITH alpn name incarnation.
const plainHello = "MESOLITH"

func (m *Mux) greetPlain(conn net.Conn) (*Conn, string, error) {
	line, err := readLine(conn)
	if err != nil {
		return nil, "", err
	}
	words := strings.Split(line, " ")
	if len(words) != 4 || words[0] != plainHello {
		return &Conn{Conn: conn}, "", fmt.Errorf("%w: the port between nodes of a --dev cluster was spoken to as %.20q; is the caller a --dev clusterd too?", ErrRefused, line)
	}
	c := &Conn{Conn: conn}
	if !nodedoc.ValidName(words[2]) || !nodecert.ValidIncarnation(words[3]) {
		return c, words[1], fmt.Errorf("%w: malformed name or incarnation", ErrRefused)
	}
	c.peer = nodecert.Peer{Name: words[2], Incarnation: words[3], Roles: []string{nodecert.RoleAgent, nodecert.RoleMaster}}
	return c, words[1], nil
}

func (m *Mux) callPlain(conn net.Conn, name, alpn string) (*Conn, error) {
	if _, err := fmt.Fprintf(conn, "%s %s %s %s\n", plainHello, alpn, m.cfg.Self.Name, m.cfg.Self.Incarnation); err != nil {
		return nil, err
	}
	c := &Conn{Conn: conn, peer: nodecert.Peer{Name: name, Roles: []string{nodecert.RoleAgent, nodecert.RoleMaster}}}
	answers, incarnation, err := readWelcome(c)
	if err == nil && (answers != name || !nodecert.ValidIncarnation(incarnation)) {
		err = fmt.Errorf("%w: %.80q answers under the address of %s", ErrRefused, answers, name)
	}
	c.peer.Incarnation = incarnation
	return c, err
}

const welcome = "welcome"

// writeWelcome says who answers, which a caller without TLS has no other way to know.
func writeWelcome(w io.Writer, self nodecert.Peer, refused error) error {
	line := welcome + " " + self.Name + " " + self.Incarnation
	if refused != nil {
		line = strings.ReplaceAll(refused.Error(), "\n", " ")
		if len(line) > maxWelcome-2 {
			line = line[:maxWelcome-2]
		}
	}
	_, err := io.WriteString(w, line+"\n")
	return err
}

func readWelcome(r io.Reader) (name, incarnation string, err error) {
	line, err := readLine(r)
	if err != nil {
		return "", "", fmt.Errorf("wait for welcome: %w", err)
	}
	if words := strings.Split(line, " "); len(words) == 3 && words[0] == welcome {
		return words[1], words[2], nil
	}
	return "", "", fmt.Errorf("%w by the other end: %s", ErrRefused, strings.TrimPrefix(line, ErrRefused.Error()+": "))
}

// readLine reads byte by byte: what follows belongs to the conversation.
func readLine(r io.Reader) (string, error) {
	line := make([]byte, 0, 64)
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		if line = append(line, b[0]); len(line) > maxWelcome {
			return "", fmt.Errorf("first line is longer than %d bytes", maxWelcome)
		}
	}
}

// drain lets a refusal arrive: closing with unread bytes would reset the connection.
func drain(c *Conn) {
	c.CloseWrite()
	c.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, c.Conn, 64<<10)
}

// silent errors are everyday: a port scan, a caller who gave up.
func silent(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrNoCertificate)
}

// refusals says who was refused, once a peer and minute.
type refusals struct {
	log  *slog.Logger
	mu   sync.Mutex
	said map[string]time.Time // at most maxSaid
}

const (
	sayAgain = time.Minute
	maxSaid  = 1024
)

func (r *refusals) say(who, alpn string, why error) {
	now := time.Now()
	r.mu.Lock()
	last, ok := r.said[who]
	if ok && now.Sub(last) < sayAgain {
		r.mu.Unlock()
		return
	}
	if r.said == nil || len(r.said) >= maxSaid {
		r.said = map[string]time.Time{}
	}
	r.said[who] = now
	r.mu.Unlock()
	r.log.Warn("call from a node refused", "from", who, "conversation", alpn, "why", why.Error())
}
