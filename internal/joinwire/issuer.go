package joinwire

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/join"
)

// maxTalks is how many machines are served at once.
const maxTalks = 32

// Living is who answers under a name at present.
type Living struct {
	Incarnation string
	Key         crypto.PublicKey // of its certificate
}

// Issuer answers join/1 on a master.
type Issuer struct {
	Name, ClusterID string
	// BootKey gives the public half of a node's boot credential.
	BootKey func(name string) (ed25519.PublicKey, bool)
	// Lives asks whoever answers under the name by mutual TLS, for at most LivesWait.
	Lives     func(ctx context.Context, name string) (Living, bool)
	LivesWait time.Duration // ten heartbeat timeouts
	// Issue signs; an error is passed on to the machine.
	Issue func(name, incarnation string, csr []byte, remote net.Addr) (chain [][]byte, err error)
	// Now is the zero time while this master has no time: it then issues nothing.
	Now func() time.Time
	Log *slog.Logger
}

// Serve answers until l is closed and waits for the answers under way.
func (i *Issuer) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		l.Close()
	})
	slots := make(chan struct{}, maxTalks)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("join/1: %w", err)
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			c.Close()
			return nil
		}
		wg.Go(func() {
			defer func() { <-slots }()
			i.answer(ctx, c)
		})
	}
}

func (i *Issuer) answer(ctx context.Context, c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(talkTime / 2))
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	q := &join.Request{}
	if err := wire.Read(c, q, maxRequest); err != nil {
		i.Log.Info("a call to join broke off", "from", c.RemoteAddr().String(), "why", err.Error())
		return
	}
	a, why := i.consider(ctx, c, q)
	a.Issuer = i.Name
	if why != nil {
		a.Refused = why.Error()
		i.Log.Warn("a machine may not join", "node", fmt.Sprintf("%.80s", q.GetName()), "from", c.RemoteAddr().String(), "why", why.Error())
	} else {
		i.Log.Info("certificate issued", "node", q.GetName(), "incarnation", q.GetIncarnation(), "from", c.RemoteAddr().String())
	}
	c.SetDeadline(time.Now().Add(talkTime / 2))
	if err := wire.Write(c, a); err != nil {
		i.Log.Info("the answer to a machine that joins was not taken", "node", q.GetName(), "why", err.Error())
	}
}

// consider weighs one request; with an error the answer's reason says of what kind.
func (i *Issuer) consider(ctx context.Context, c net.Conn, q *join.Request) (*join.Answer, error) {
	refuse := func(r join.Reason, format string, args ...any) (*join.Answer, error) {
		return &join.Answer{Reason: r}, fmt.Errorf(format, args...)
	}
	now := i.Now()
	switch {
	case q.GetProtocol() != protocol:
		return refuse(join.Reason_REASON_OTHER, "protocol %d is not spoken here, %d is: boot an image of the same release", q.GetProtocol(), protocol)
	case q.GetClusterId() != i.ClusterID:
		return refuse(join.Reason_REASON_WRONG_CLUSTER, "this is cluster %s, not %.64q: the machine booted with another cluster's anchor", i.ClusterID, q.GetClusterId())
	case !nodedoc.ValidName(q.GetName()) || !nodecert.ValidIncarnation(q.GetIncarnation()):
		return refuse(join.Reason_REASON_OTHER, "malformed name or incarnation")
	case now.IsZero():
		return refuse(join.Reason_REASON_NOT_NOW, "%s does not know the time yet and issues nothing", i.Name)
	}
	key, ok := i.BootKey(q.GetName())
	if !ok {
		return refuse(join.Reason_REASON_UNKNOWN_NODE, "the cluster file has no node %s: add it and run `lith apply`", q.GetName())
	}
	exporter, err := exporterOf(c)
	if err != nil {
		return refuse(join.Reason_REASON_OTHER, "%w", err)
	}
	if !nodecert.VerifyBootProof(key, exporter, q.GetCsr(), q.GetProof()) {
		return refuse(join.Reason_REASON_WRONG_CREDENTIAL, "the boot credential presented for %s is not the one that the cluster file's owner made for it: is the medium of another node or of an earlier `lith init` in the machine?", q.GetName())
	}
	if err := i.notAlive(ctx, q, exporter); err != nil {
		return refuse(join.Reason_REASON_ALIVE, "%w", err)
	}
	chain, err := i.Issue(q.GetName(), q.GetIncarnation(), q.GetCsr(), c.RemoteAddr())
	if err != nil {
		return refuse(join.Reason_REASON_NOT_NOW, "%w", err)
	}
	return &join.Answer{Chain: chain, TimeUnixNs: now.UnixNano()}, nil
}

// notAlive challenges whoever holds the name at present. The same incarnation may renew
// by the key that it has: its id is no secret, its key is.
func (i *Issuer) notAlive(ctx context.Context, q *join.Request, exporter []byte) error {
	ctx, cancel := context.WithTimeout(ctx, i.LivesWait)
	defer cancel()
	living, ok := i.Lives(ctx, q.GetName())
	switch {
	case !ok:
		return nil
	case living.Incarnation != q.GetIncarnation():
		return fmt.Errorf("a machine named %s is alive (incarnation %s) and answered: a copied medium, a cloned machine, or an attacker; switch one of them off", q.GetName(), living.Incarnation)
	case !verifyRenewal(living.Key, exporter, q.GetCsr(), q.GetRenews()):
		return fmt.Errorf("incarnation %s of %s is alive, and this request is not signed by its key", living.Incarnation, q.GetName())
	}
	return nil
}
