package auth

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/mesolith/mesolith/internal/acl"
)

// Open are the endpoints that are served to everybody, without credentials: what a
// balancer, a client looking for the leader or somebody with the wrong password needs. It
// is the whole list.
var Open = []string{"/health", "/version", "/redirect"}

type callerKind struct{}

// PrincipalOf returns whom Guard let in.
func PrincipalOf(ctx context.Context) Principal {
	c, _ := ctx.Value(callerKind{}).(caller)
	return c.Principal
}

// JudgeOf answers what the caller of a context may do to which object. Whom Guard did not
// let in may nothing.
func JudgeOf(ctx context.Context) acl.Judge {
	if c, ok := ctx.Value(callerKind{}).(caller); ok {
		return c.by.current.Load().ACLs.For(c.Name)
	}
	return acl.Judge{}
}

// Forbidden is "" if the caller of a context may do something to all that is named, or,
// with no names, to what has none; else the sentence that he may not. what says what the
// names are: a role, a user.
func Forbidden(ctx context.Context, action acl.Action, what string, names ...string) string {
	j := JudgeOf(ctx)
	if len(names) == 0 && !j.May(action, acl.Object{}) {
		return j.Sentence(action, what)
	}
	for _, name := range names {
		if !j.May(action, acl.Named(name)) {
			return j.Sentence(action, what+" '"+name+"'")
		}
	}
	return ""
}

// Allowed says whether a principal may do something to an object, as the ACLs are now;
// empty: a caller that is not known.
func (a *Authenticator) Allowed(principal string, action acl.Action, o acl.Object) bool {
	return a.current.Load().ACLs.Allowed(principal, action, o)
}

// Guard serves h to callers who may act in role and are within their rate limit; it
// answers the others 401 with the realm, 403, or 429, and writes that down.
func (a *Authenticator) Guard(realm, role string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := a.Identify(r)
		origin, _ := a.Origin(r) // what is wrong with its certificate, Identify said
		c := caller{p, origin, a}
		if err != nil {
			a.refused(a.claimed(c, r), callOf(r), "", err.Error())
			Refuse(w, realm, err)
			return
		}
		if over := a.current.Load().limits.take(p, time.Now()); over != nil {
			a.refused(c, callOf(r), "", over.why)
			over.refuse(w)
			return
		}
		if !p.May(role) {
			why := "Principal '" + p.String() + "' has the role '" + p.Role + "'; this needs '" + role + "'"
			a.refused(c, callOf(r), "", why)
			refuseText(w, http.StatusForbidden, why)
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKind{}, c)))
	})
}

// claimed names who somebody said to be, in the log, if there is such a principal: what
// else stands there may be a secret that was put into the wrong field.
func (a *Authenticator) claimed(c caller, r *http.Request) caller {
	c.Principal = Principal{Name: "unknown"}
	if name, _, ok := r.BasicAuth(); ok && a.current.Load().principals[name] {
		c.Name = name + " (not proven)"
	}
	return c
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
