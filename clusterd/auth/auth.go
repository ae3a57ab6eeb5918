// Package auth says who a caller of the API is and what he may do.
//
// A caller is known by the client certificate of an operator, by principal and secret
// (Basic), or not at all; what somebody unknown may do is the cluster file's api.anonymous.
// Roles are a ladder: reader, framework, operator, admin; each may what those below it
// may. A call that another node forwarded is judged by what that node saw of the caller,
// which came in the frame of the mutual TLS connection between nodes, and by the caller's
// own Authorization header; never by any other header.
//
// Invariants: an endpoint that Open does not name is served to nobody without a role;
// a principal that is known with a wrong secret is refused, whatever anonymous callers may;
// hashing for wrong secrets never takes more than two processors' worth.
//
// Which endpoint needs which role is said where the endpoint is (Guard). Beyond roles there
// are ACLs, which say who may do what to which object; handlers ask JudgeOf where they know
// the object. Guard also counts calls against rate limits, and what is refused or changed
// is written down here (Refused, Changed): a bounded number of lines a second.
// Secrets are stored and compared by internal/nodedoc, certificates verified by
// internal/nodecert, the rules of ACLs are internal/acl's.
package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/ratelimit"
	"github.com/mesolith/mesolith/internal/wire/forward"
)

// Kind is how a caller is known.
type Kind int

// The ways to be known.
const (
	Anonymous Kind = iota
	Basic
	Certificate
)

// Principal is a caller.
type Principal struct {
	Name string // empty: anonymous
	Role string // one of nodedoc's; empty: may do nothing but what is open to all
	Kind Kind
}

// ladder orders the roles; a role that is not on it may nothing.
var ladder = map[string]int{
	nodedoc.RoleReader:    1,
	nodedoc.RoleFramework: 2,
	nodedoc.RoleOperator:  3,
	nodedoc.RoleAdmin:     4,
}

// May says whether the principal may do what needs the given role.
func (p Principal) May(role string) bool {
	need, ok := ladder[role]
	return ok && ladder[p.Role] >= need
}

func (p Principal) String() string {
	if p.Name == "" {
		return "anonymous"
	}
	return p.Name
}

// Realms that a 401 names; clients of Mesos know them.
const (
	RealmScheduler       = "mesos-master-scheduler"
	RealmMasterReadonly  = "mesos-master-readonly"
	RealmMasterReadwrite = "mesos-master-readwrite"
	RealmAgentReadonly   = "mesos-agent-readonly"
	RealmAgentReadwrite  = "mesos-agent-readwrite"
)

var (
	// ErrUnauthenticated is answered with 401.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrForbidden is answered with 403.
	ErrForbidden = errors.New("not allowed")
)

// Policy is what the cluster's documents say of the API.
type Policy struct {
	// Plain HTTP is taken from these networks; with Plaintext and none given from all.
	Plaintext     bool
	PlaintextFrom []netip.Prefix
	// Anonymous is one of nodedoc's words; anything else counts as none.
	Anonymous string
	// Anchor verifies client certificates; nil: no certificate is believed.
	Anchor *nodedoc.Anchor
	// Credentials are known to masters only; nil elsewhere.
	Credentials nodedoc.APICredentials
	// ACLs restrict what roles allow; nil: they do not.
	ACLs *acl.ACLs
	// RateLimits bound how often principals may call; nil: nothing does.
	RateLimits *ratelimit.Limits
}

// PolicyOf reads the API's part of a node document.
func PolicyOf(api nodedoc.API, anchor *nodedoc.Anchor, credentials nodedoc.APICredentials) (Policy, error) {
	p := Policy{Plaintext: api.Plaintext, Anonymous: api.Anonymous, Anchor: anchor, Credentials: credentials, ACLs: api.ACLs, RateLimits: api.RateLimits}
	for _, text := range api.PlaintextFrom {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return Policy{}, fmt.Errorf("api.plaintextFrom: %q is not a network: %w", text, err)
		}
		p.PlaintextFrom = append(p.PlaintextFrom, prefix)
	}
	return p, nil
}

// hashSlots bounds how many secrets are hashed at a time.
const hashSlots = 2

// Authenticator judges requests by the newest policy. Its methods may be called from any
// goroutine.
type Authenticator struct {
	now     func() time.Time
	current atomic.Pointer[judge]
	slots   chan struct{}
	audit   *recorder
	log     atomic.Pointer[slog.Logger]
}

type judge struct {
	Policy
	checker    *nodedoc.Checker
	principals map[string]bool
	limits     *limiter
}

// New returns an Authenticator that lets nobody in until Set. now is the clock that
// certificates are compared with; it may return zero while the node has no time.
func New(now func() time.Time) *Authenticator {
	a := &Authenticator{now: now, slots: make(chan struct{}, hashSlots)}
	a.log.Store(slog.New(slog.DiscardHandler))
	a.audit = &recorder{log: a.log.Load}
	a.current.Store(&judge{})
	return a
}

// AuditTo says where lines about refused and changing calls go; nowhere before.
func (a *Authenticator) AuditTo(log *slog.Logger) { a.log.Store(log) }

// Set replaces the policy.
func (a *Authenticator) Set(p Policy) error {
	j := &judge{Policy: p, principals: make(map[string]bool, len(p.Credentials)), limits: newLimiter(p.RateLimits)}
	if len(p.Credentials) > 0 {
		c, err := nodedoc.NewChecker(p.Credentials)
		if err != nil {
			return fmt.Errorf("API credentials: %w", err)
		}
		j.checker = c
		for _, cred := range p.Credentials {
			j.principals[cred.Principal] = true
		}
	}
	a.current.Store(j)
	return nil
}

// Origin is where a call came from, as the node saw it that took it from the caller.
type Origin struct {
	Remote      netip.Addr // invalid when unknown
	TLS         bool
	Forwarded   bool   // it came through another node
	Node        string // that node
	Certificate Principal
}

type callerKey struct{}

// WithCaller marks the requests of a forward/1 connection with its first frame.
func WithCaller(ctx context.Context, c *forward.Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Forwarded tells whether a request came through another node.
func Forwarded(ctx context.Context) bool {
	return ctx.Value(callerKey{}) != nil
}

// Origin reads where a request came from. The error is about its certificate.
func (a *Authenticator) Origin(r *http.Request) (Origin, error) {
	if c, ok := r.Context().Value(callerKey{}).(*forward.Caller); ok {
		o := Origin{TLS: c.GetTls(), Forwarded: true, Node: c.GetNode(), Remote: addressOf(c.GetRemote())}
		if c.GetCertificateName() != "" {
			o.Certificate = Principal{Name: c.GetCertificateName(), Kind: Certificate, Role: highest(c.GetCertificateRoles())}
		}
		return o, nil
	}
	o := Origin{TLS: r.TLS != nil, Remote: addressOf(r.RemoteAddr)}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return o, nil
	}
	anchor := a.current.Load().Anchor
	if anchor == nil {
		return o, fmt.Errorf("%w: this node knows no authority for client certificates", ErrUnauthenticated)
	}
	peer, err := nodecert.VerifyPeer(*r.TLS, *anchor, a.now())
	if err != nil {
		return o, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	if peer.Operator { // nodes have no business on this port beyond what is open to all
		o.Certificate = Principal{Name: peer.Name, Kind: Certificate, Role: highest(peer.Roles)}
	}
	return o, nil
}

// highest picks the role that may most; operator certificates name roles only, so a
// node's roles give none.
func highest(roles []string) string {
	best := ""
	for _, r := range roles {
		if ladder[r] > ladder[best] {
			best = r
		}
	}
	return best
}

func addressOf(hostport string) netip.Addr {
	if ap, err := netip.ParseAddrPort(hostport); err == nil {
		return ap.Addr().Unmap()
	}
	ip, err := netip.ParseAddr(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap()
}

// PlainAllowed says whether plain HTTP is taken from an address; ports ask it before they
// read a request.
func (a *Authenticator) PlainAllowed(remote net.Addr) bool {
	return remote != nil && a.current.Load().plainAllowed(addressOf(remote.String()))
}

func (j *judge) plainAllowed(ip netip.Addr) bool {
	if !j.Plaintext || len(j.PlaintextFrom) == 0 {
		return j.Plaintext
	}
	for _, p := range j.PlaintextFrom {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// Identify says who calls. A caller who is not known and may nothing gets
// ErrUnauthenticated; plain HTTP where it is not allowed, ErrForbidden.
func (a *Authenticator) Identify(r *http.Request) (Principal, error) {
	j := a.current.Load()
	o, err := a.Origin(r)
	if err != nil {
		return Principal{}, err
	}
	if !o.TLS && !j.plainAllowed(o.Remote) {
		return Principal{}, fmt.Errorf("%w: plain HTTP is not taken from %s; use https://, or allow it in the cluster file (api.plaintext)", ErrForbidden, o.Remote)
	}
	if o.Certificate.Role != "" {
		return o.Certificate, nil
	}
	name, secret, given := r.BasicAuth()
	if given && name != "" && !j.ignores(name) {
		return a.basic(r.Context(), j, name, secret)
	}
	switch j.Anonymous {
	case nodedoc.AnonymousReader:
		return Principal{Role: nodedoc.RoleReader}, nil
	case nodedoc.AnonymousFramework:
		return Principal{Role: nodedoc.RoleFramework}, nil
	}
	return Principal{}, fmt.Errorf("%w: give a principal and its secret (Basic) or an operator's certificate", ErrUnauthenticated)
}

// ignores: clients that always send some credentials are anonymous where that is allowed
// and their principal is nobody's.
func (j *judge) ignores(name string) bool {
	open := j.Anonymous == nodedoc.AnonymousReader || j.Anonymous == nodedoc.AnonymousFramework
	return open && !j.principals[name]
}

func (a *Authenticator) basic(ctx context.Context, j *judge, name, secret string) (Principal, error) {
	if j.checker == nil {
		return Principal{}, fmt.Errorf("%w: this node knows no principals, only masters do; use an operator's certificate here", ErrUnauthenticated)
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return Principal{}, fmt.Errorf("%w: %w", ErrUnauthenticated, ctx.Err())
	}
	role, ok := j.checker.Check(name, secret)
	if !ok {
		return Principal{}, fmt.Errorf("%w: principal or secret is wrong", ErrUnauthenticated)
	}
	return Principal{Name: name, Role: role, Kind: Basic}, nil
}

// ServerTLS completes the TLS configuration of an API port: client certificates are asked
// for and, if sent, must be this cluster's; no certificate is fine, Basic may follow.
func (a *Authenticator) ServerTLS(base *tls.Config) *tls.Config {
	c := base.Clone()
	c.MinVersion = tls.VersionTLS12
	c.ClientAuth = tls.RequestClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return nil
		}
		anchor := a.current.Load().Anchor
		if anchor == nil {
			return nil // Origin refuses, with a sentence that the caller can read
		}
		_, err := nodecert.VerifyPeer(s, *anchor, a.now())
		return err
	}
	return c
}
