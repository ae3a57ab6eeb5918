package node

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	api "github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/provision/node/credentials"
)

const (
	headerTimeout = 10 * time.Second
	readTimeout   = 20 * time.Second // of a whole request
	idleTimeout   = 30 * time.Second // between two of a connection
	writeTimeout  = 30 * time.Second // of one piece of an answer
	endTimeout    = 2 * time.Second
	maxAPIConns   = 128
	selfSignedFor = 10 * 365 * 24 * time.Hour
)

// apiServer answers operators on port 5053.
type apiServer struct {
	n   *machine
	own *tls.Certificate // self-signed, until there is a real one
}

func newAPI(n *machine) (*apiServer, error) {
	now := n.cfg.Clock.Now()
	own, err := credentials.SelfSigned(newNodeKey, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Mesolith node without certificate"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(selfSignedFor),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, err
	}
	return &apiServer{n: n, own: own}, nil
}

// certificate is what callers are shown now.
func (a *apiServer) certificate() *tls.Certificate {
	a.n.mu.Lock()
	defer a.n.mu.Unlock()
	if a.n.keys != nil {
		return a.n.keys.TLS
	}
	return a.own
}

// fingerprint lets a person at the console compare what his program was shown.
func (a *apiServer) fingerprint() string {
	sum := sha256.Sum256(a.certificate().Certificate[0])
	text := hex.EncodeToString(sum[:16])
	var groups []string
	for i := 0; i < len(text); i += 8 {
		groups = append(groups, text[i:i+8])
	}
	return "sha256 " + strings.Join(groups, "-")
}

func (a *apiServer) serve(ctx context.Context) error {
	if a.n.cfg.API == nil {
		return errors.New("no listening socket was handed over (LISTEN_FDNAMES has no node)")
	}
	server := &http.Server{
		Handler: patiently(a.routes()), ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog:    slog.NewLogLogger(a.n.cfg.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		// Who holds the certificate is judged in authorize: there is one root, the
		// anchor's, and a machine without an anchor can say so in words.
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.certificate(), nil },
	}
	ended := make(chan struct{})
	defer func() { <-ended }()
	done, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(ended)
		<-done.Done()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if server.Shutdown(limited) != nil {
			_ = server.Close() // what did not end by itself
		}
	}()
	err := server.Serve(tls.NewListener(&limited{Listener: a.n.cfg.API, places: make(chan struct{}, maxAPIConns)}, config))
	if errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return fmt.Errorf("serve node API: %w", err)
}

// patiently lets an answer take as long as its reader goes on taking it: the limit of
// reading is for the request alone, that of writing for each piece (see flushing).
func patiently(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w) // HTTP/1 can set both
		if r.ContentLength == 0 {
			_ = control.SetReadDeadline(time.Time{})
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		next.ServeHTTP(w, r)
	})
}

// Ranks of roles: each may what the ones before may.
var rank = map[string]int{nodedoc.RoleReader: 1, nodedoc.RoleOperator: 2, nodedoc.RoleAdmin: 3}

func (a *apiServer) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range []struct {
		pattern string
		role    string
		handle  http.HandlerFunc
	}{
		{"GET /v1/health", nodedoc.RoleReader, a.health},
		{"GET /v1/inventory", nodedoc.RoleReader, a.inventory},
		{"GET /v1/dmesg", nodedoc.RoleReader, a.dmesg},
		{"GET /v1/logs", nodedoc.RoleReader, a.logs},
		{"GET /v1/services", nodedoc.RoleReader, a.services},
		{"GET /v1/memory", nodedoc.RoleReader, a.memory},
		{"POST /v1/reboot", nodedoc.RoleOperator, a.power("reboot")},
		{"POST /v1/poweroff", nodedoc.RoleOperator, a.power("poweroff")},
		{"POST /v1/masters/admit", nodedoc.RoleOperator, a.admit},
		{"POST /v1/services/kill", nodedoc.RoleAdmin, a.kill},
	} {
		mux.HandleFunc(r.pattern, a.authorize(r.role, r.handle))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "no such call %s %s; there are /v1/health, inventory, dmesg, logs, services, memory (GET) and /v1/reboot, poweroff, masters/admit, services/kill (POST)", r.Method, r.URL.Path)
	})
	return mux
}

// authorize lets only operators of this cluster with a sufficient role through.
func (a *apiServer) authorize(role string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		found := a.n.document()
		if found.Document.Name == "" {
			refuse(w, http.StatusServiceUnavailable, "this machine has no valid node document yet, so it knows no operator; its console says what it looked for")
			return
		}
		if len(r.TLS.PeerCertificates) == 0 {
			refuse(w, http.StatusUnauthorized, "an operator's certificate is needed (`lith` presents the one of the cluster's directory)")
			return
		}
		peer, err := nodecert.VerifyPeer(*r.TLS, found.Anchor, a.n.cfg.Clock.Now())
		if err != nil {
			refuse(w, http.StatusUnauthorized, "certificate refused: %v", err)
			return
		}
		best := 0
		for _, have := range peer.Roles {
			best = max(best, rank[have])
		}
		if !peer.Operator || best < rank[role] {
			refuse(w, http.StatusForbidden, "%s (roles %s) may not %s %s: role %s is needed", peer.Name, strings.Join(peer.Roles, ", "), r.Method, r.URL.Path, role)
			return
		}
		if r.Method != http.MethodGet {
			a.n.cfg.Log.Info("operator's call", "operator", peer.Name, "call", r.URL.Path, "query", r.URL.RawQuery)
		}
		next(w, r)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // who hung up needs no answer
}

func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	answer(w, status, api.Failure{Error: fmt.Sprintf(format, args...)})
}

// limited accepts so many connections at a time; others wait in the kernel's queue.
type limited struct {
	net.Listener
	places chan struct{}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	l.places <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { <-l.places })}, nil
}

type limitedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
