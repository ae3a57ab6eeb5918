// Package acl is who may do what to which object: Mesos' ACLs, decoded strictly and asked
// with a principal, an action and an object.
//
// For each action there is an ordered list of rules. A rule names principals and objects;
// the first that fits both decides, and where none fits `permissive` does (true unless the
// file says otherwise). ANY fits everybody and allows, NONE fits everybody and refuses, a
// list of values fits who is on it and allows. A caller without a name is fitted by ANY and
// NONE only. Objects that are roles may be given as "a/%": all roles below a, not a itself.
//
// Invariants: what Decode accepts is bounded and means what it says: an unknown key, a
// value that could never fit or that Mesos would pass over in silence is an error with its
// place. Allowed decides by its arguments alone. No ACLs (nil) allow everything.
//
// Rules only restrict: what a caller may do at all is decided before, by his role on the
// ladder of package auth.
package acl

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Which values of an entity are meant.
const (
	typeSome = "SOME"
	typeAny  = "ANY"
	typeNone = "NONE"
)

// entity is one side of a rule.
type entity struct {
	which  string
	values []string // of SOME, as they are written
	set    map[string]bool
	below  []string // "a/" for each value "a/%", where values are roles
}

// rule is one line of a list.
type rule struct{ principals, objects entity }

// ACLs are all rules. They do not change; use them from any goroutine.
type ACLs struct {
	permissive bool
	rules      map[string][]rule // by key
}

// Object is what an action is about. The zero value is an object without a name, as a
// node's flags are.
type Object struct {
	name    string
	named   bool
	unknown bool
	child   *Object
}

// Named is an object with a name: a role, a user, a principal, a path. What has none, like
// a reservation that nobody signed, is named "" and fits ANY and NONE only.
func Named(name string) Object { return Object{name: name, named: true} }

// Unknown is an object that has a name which we do not know, as a directory that nobody
// remembers the user of: it is allowed where every name would be.
func Unknown() Object { return Object{unknown: true} }

// Nested is a container to be launched below another one: the parent's user, and the user
// of the command, if there is a command (Object{} if it names no user).
func Nested(parent Object, command Object) Object {
	parent.child = &command
	return parent
}

// Permissive says what happens where no rule fits.
func (a *ACLs) Permissive() bool { return a == nil || a.permissive }

// Restricts says whether an action may be refused to anybody: lists need not be looked
// through where it is not.
func (a *ACLs) Restricts(action Action) bool {
	if a == nil {
		return false
	}
	row, ok := table[action]
	parent := underParent(action)
	return !ok || !a.permissive || len(a.rules[row.key.name]) > 0 || parent != "" && len(a.rules[parent]) > 0
}

// Allowed says whether a principal may do something to an object. An empty principal is a
// caller that is not known; an action that does not exist is allowed to nobody.
func (a *ACLs) Allowed(principal string, action Action, o Object) bool {
	row, ok := table[action]
	if !ok {
		return false
	}
	if a == nil {
		return true
	}
	parent := underParent(action)
	if parent == "" {
		return a.decide(row.key, principal, o)
	}
	if !a.decide(key{name: parent}, principal, o) {
		return false
	}
	return o.child == nil || a.decide(row.key, principal, *o.child)
}

func (a *ACLs) decide(k key, principal string, o Object) bool {
	rules := a.rules[k.name]
	if k.kind == whole {
		o = Object{}
	}
	if o.unknown {
		return a.whatever(rules, principal)
	}
	return a.first(rules, principal, o)
}

func (a *ACLs) first(rules []rule, principal string, o Object) bool {
	subject := Object{name: principal, named: principal != ""}
	for i := range rules {
		if r := &rules[i]; r.principals.fits(subject) && r.objects.fits(o) {
			return r.principals.which != typeNone && r.objects.which != typeNone
		}
	}
	return a.permissive
}

// whatever says whether a principal would be allowed each object that there may be: those
// that rules name, and one that none names.
func (a *ACLs) whatever(rules []rule, principal string) bool {
	for _, r := range rules {
		for _, v := range r.objects.values {
			if !a.first(rules, principal, Named(v)) {
				return false
			}
		}
	}
	return a.first(rules, principal, Object{})
}

// fits says whether something is meant by an entity, be it to allow or to refuse.
func (e *entity) fits(o Object) bool {
	if e.which != typeSome {
		return true
	}
	if !o.named {
		return false
	}
	if e.set[o.name] {
		return true
	}
	return slices.ContainsFunc(e.below, func(prefix string) bool { return strings.HasPrefix(o.name, prefix) })
}

// Judge answers for one caller. The zero value allows nothing.
type Judge struct {
	acls      *ACLs
	principal string
	known     bool
}

// For is the judge of a principal's calls.
func (a *ACLs) For(principal string) Judge { return Judge{a, principal, true} }

// May says whether the caller may do something to an object.
func (j Judge) May(action Action, o Object) bool {
	return j.known && j.acls.Allowed(j.principal, action, o)
}

// Sentence says that something is not allowed to the caller.
func (j Judge) Sentence(action Action, object string) string {
	return Sentence(j.principal, action, object)
}

// Restricts says whether anything of an action might be refused.
func (j Judge) Restricts(action Action) bool { return !j.known || j.acls.Restricts(action) }

// Sentence says to a caller that something is not allowed to him, and where that stands.
// object is what it was about, as "user 'root'"; it may be empty.
func Sentence(principal string, action Action, object string) string {
	who := "A caller without credentials"
	if principal != "" {
		who = "Principal '" + principal + "'"
	}
	if object != "" {
		object = " of " + object
	}
	return who + " is not authorized for " + action.String() + object + ": the cluster's ACLs do not allow it (" + action.Key() + ")"
}

// Equal says whether both say the same in the same order.
func (a *ACLs) Equal(b *ACLs) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, err1 := a.MarshalJSON()
	y, err2 := b.MarshalJSON()
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// wireEntity is an entity in the form of the file.
type wireEntity struct {
	Type   string   `json:"type,omitempty"`
	Values []string `json:"values,omitempty"`
}

func (e *entity) wire() wireEntity {
	if e.which == typeSome {
		return wireEntity{Values: e.values}
	}
	return wireEntity{Type: e.which}
}

// MarshalJSON writes the ACLs in the one form that says the same: Parse of it gives them
// again.
func (a *ACLs) MarshalJSON() ([]byte, error) {
	out := map[string]any{"permissive": a.permissive}
	known := keys()
	for name, list := range a.rules {
		rows := []map[string]wireEntity{}
		for i := range list {
			rows = append(rows, map[string]wireEntity{"principals": list[i].principals.wire(), known[name].objects: list[i].objects.wire()})
		}
		out[name] = rows
	}
	return json.Marshal(out) // keys of maps are sorted
}
