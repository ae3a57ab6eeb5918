// Package faces puts the handlers of the API on their paths: NewMasterMux for port 5050,
// which every node answers, and NewAgentMux for 5051. One table each says per path who may
// call (or that everybody may), and whether it is answered here or by the leader.
//
// The routing is that of Mesos' library: /X and /master/X (on an agent /slave(1)/X) are
// one; the longest prefix wins, so that /tasks/, /slaves/<id> and /api/v1/operator reach
// their parents; a trailing .json is ignored; a path with /.. is not found.
//
// Invariant: a path that is in neither table is 404; one that is not in auth.Open is
// behind auth.Guard.
package faces

import (
	"net/http"
	"strings"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/internal/acl"
)

// route is one line of a table.
type route struct {
	path  string
	role  string // empty: open to all
	realm string
	// exact: nothing below the path belongs to it.
	exact   bool
	forward bool // answered by the leader
	handler http.Handler
}

// mux serves a table.
type mux struct {
	process string // the prefix that may be left out
	routes  map[string]served
}

type served struct {
	exact   bool
	handler http.Handler
}

func newMux(process string, a *auth.Authenticator, toLeader func(http.Handler) http.Handler, table []route) *mux {
	m := &mux{process: process, routes: make(map[string]served, len(table))}
	for _, r := range table {
		h := r.handler
		if acl.IsEndpoint(r.path) {
			h = endpoint(r.path, h)
		}
		if r.role != "" {
			h = a.Guard(r.realm, r.role, h)
		}
		if r.forward {
			h = toLeader(h)
		}
		m.routes[r.path] = served{r.exact, h}
	}
	return m
}

// endpoint serves h to those who may get the endpoint of a path.
func endpoint(path string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := auth.Forbidden(r.Context(), acl.GetEndpoint, "path", path); why != "" {
			auth.Refused(r.Context(), r.Method+" "+path, path, why)
			httpio.Error(w, http.StatusForbidden, why)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ServeHTTP implements http.Handler.
func (m *mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := m.find(r.URL.Path); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	httpio.Error(w, http.StatusNotFound, "Not found: "+r.Method+" "+r.URL.Path)
}

func (m *mux) find(path string) http.Handler {
	if strings.Contains(path, "/..") || !strings.HasPrefix(path, "/") {
		return nil
	}
	if rest, ok := strings.CutPrefix(path, m.process); ok && (rest == "" || rest[0] == '/') {
		path = rest
	}
	path = strings.TrimRight(path, "/")
	for whole := true; path != ""; whole = false {
		s, ok := m.routes[path]
		if !ok {
			s, ok = m.routes[strings.TrimSuffix(path, ".json")]
		}
		if ok && (whole || !s.exact) {
			return s.handler
		}
		path = path[:strings.LastIndexByte(path, '/')]
	}
	return nil
}
