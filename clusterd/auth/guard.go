package auth

import (
	"context"
	"errors"
	"net/http"
	"strconv"
)

// Open are the endpoints that are served to everybody, without credentials: what a
// balancer, a client looking for the leader or somebody with the wrong password needs. It
// is the whole list.
var Open = []string{"/health", "/version", "/redirect"}

type principalKey struct{}

// PrincipalOf returns whom Guard let in.
func PrincipalOf(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

// Guard serves h to callers who may act in role, and answers the others 401 with the
// realm, or 403.
func (a *Authenticator) Guard(realm, role string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := a.Identify(r)
		if err != nil {
			Refuse(w, realm, err)
			return
		}
		if !p.May(role) {
			refuseText(w, http.StatusForbidden, "Principal '"+p.String()+"' has the role '"+p.Role+"'; this needs '"+role+"'")
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey{}, p)))
	})
}

// Refuse answers a request whose caller Identify did not accept.
func Refuse(w http.ResponseWriter, realm string, err error) {
	status := http.StatusForbidden
	if errors.Is(err, ErrUnauthenticated) {
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="`+realm+`"`)
	}
	refuseText(w, status, err.Error())
}

func refuseText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	// The caller may be gone; there is nobody else to tell.
	_, _ = w.Write([]byte(text))
}
