package acl

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/mesolith/mesolith/internal/jsontree"
)

// Bounds of what is read.
const (
	MaxBytes  = 256 << 10
	maxRules  = 2000 // of all keys together
	maxValues = 1000 // of one entity
	maxValue  = 1024 // bytes of one value
)

// Parse reads Mesos' JSON.
func Parse(text []byte) (*ACLs, error) {
	n, bad := jsontree.Parse(text, MaxBytes)
	if len(bad) > 0 {
		return nil, bad
	}
	a, bad := Decode(n)
	if len(bad) > 0 {
		return nil, bad
	}
	return a, nil
}

// UnmarshalJSON implements json.Unmarshaler, as strictly as Parse.
func (a *ACLs) UnmarshalJSON(text []byte) error {
	read, err := Parse(text)
	if err != nil {
		return fmt.Errorf("ACLs: %w", err)
	}
	*a = *read
	return nil
}

// Decode reads a tree of the same shape.
func Decode(n *jsontree.Node) (*ACLs, jsontree.Problems) {
	d := decoder{out: &ACLs{permissive: true, rules: map[string][]rule{}}, keys: keys()}
	d.top(n)
	if len(d.bad) > 0 {
		return nil, d.bad
	}
	return d.out, nil
}

type decoder struct {
	out   *ACLs
	keys  map[string]key
	rules int
	bad   jsontree.Problems
}

func (d *decoder) top(n *jsontree.Node) {
	if n.Kind != jsontree.Mapping {
		d.bad.At(n, "ACLs are %s — they must be a mapping from what is done to lists of rules: {\"run_tasks\": [{\"principals\": …, \"users\": …}]}.", n.Kind)
		return
	}
	for _, e := range n.Entries {
		if e.Key == "permissive" {
			d.permissive(e.Value)
			continue
		}
		k, ok := d.keys[e.Key]
		if !ok {
			d.unknownKey(e)
			continue
		}
		d.list(k, e.Value)
	}
}

func (d *decoder) permissive(n *jsontree.Node) {
	if n.Kind != jsontree.Scalar || n.Text != "true" && n.Text != "false" {
		d.bad.At(n, "permissive must be true (what no rule is about is allowed) or false (it is refused).")
		return
	}
	d.out.permissive = n.Text == "true"
}

// gone are keys of older versions of Mesos, with what took their place.
var gone = map[string]string{
	"set_quotas": "update_quotas", "remove_quotas": "update_quotas", "shutdown_frameworks": "teardown_frameworks", "http_gets": "get_endpoints",
	"view_framework": "view_frameworks", "view_executor": "view_executors", "view_flag": "view_flags",
}

func (d *decoder) unknownKey(e jsontree.Entry) {
	if now := gone[e.Key]; now != "" {
		d.bad.Add(e.Line, e.Col, "%q is no key of ACLs any more — write %q.", e.Key, now)
		return
	}
	if like := jsontree.Nearest(e.Key, append(slices.Sorted(maps.Keys(d.keys)), "permissive")); like != "" {
		d.bad.Add(e.Line, e.Col, "unknown key %.80q in the ACLs — did you mean %q? A rule under a wrong name would restrict nothing.", e.Key, like)
		return
	}
	d.bad.Add(e.Line, e.Col, "unknown key %.80q in the ACLs — a rule under a wrong name would restrict nothing; docs/authorization.md lists the keys.", e.Key)
}

func (d *decoder) list(k key, n *jsontree.Node) {
	if n.Kind != jsontree.List {
		d.bad.At(n, "%s is %s — it must be a list of rules: [{\"principals\": …, %q: …}].", k.name, n.Kind, k.objects)
		return
	}
	for i, item := range n.Items {
		if d.rules++; d.rules > maxRules {
			d.bad.At(item, "more than %d rules — every call would read through them; name several principals or objects in one rule.", maxRules)
			return
		}
		d.rule(k, fmt.Sprintf("%s[%d]", k.name, i), item)
	}
	if len(n.Items) == 0 {
		d.bad.At(n, "%s has no rules — remove it, or write one; what no rule is about is decided by permissive.", k.name)
	}
}

func (d *decoder) rule(k key, path string, n *jsontree.Node) {
	if n.Kind != jsontree.Mapping {
		d.bad.At(n, "%s is %s — a rule is {\"principals\": …, %q: …}.", path, n.Kind, k.objects)
		return
	}
	var r rule
	seen := map[string]bool{}
	for _, e := range n.Entries {
		seen[e.Key] = true
		at := path + "." + e.Key
		switch e.Key {
		case "principals":
			r.principals = d.entity(key{k.name, "principals", named}, at, e.Value)
		case k.objects:
			r.objects = d.entity(k, at, e.Value)
		default:
			d.bad.Add(e.Line, e.Col, "unknown key %.80q in %s — a rule of %s has principals and %s.", e.Key, path, k.name, k.objects)
		}
	}
	for _, need := range []string{"principals", k.objects} {
		if !seen[need] {
			d.bad.At(n, "%s has no %s — say whom it is about: {\"values\": [\"…\"]}, {\"type\": \"ANY\"} or {\"type\": \"NONE\"}.", path, need)
		}
	}
	d.out.rules[k.name] = append(d.out.rules[k.name], r)
}

func (d *decoder) entity(k key, path string, n *jsontree.Node) entity {
	e := entity{which: typeSome, set: map[string]bool{}}
	if n.Kind != jsontree.Mapping {
		d.bad.At(n, "%s is %s — write {\"values\": [\"…\"]}, {\"type\": \"ANY\"} or {\"type\": \"NONE\"}.", path, n.Kind)
		return e
	}
	var values *jsontree.Node
	for _, part := range n.Entries {
		switch part.Key {
		case "type":
			e.which = d.which(path+".type", part.Value)
		case "values":
			values = part.Value
		default:
			d.bad.Add(part.Line, part.Col, "unknown key %.80q in %s — known are type and values.", part.Key, path)
		}
	}
	switch {
	case e.which != typeSome && values != nil:
		d.bad.At(values, "%s has values beside type %s, where they mean nothing — remove the values, or the type.", path, e.which)
	case e.which != typeSome:
	case k.kind == whole:
		d.bad.At(n, "%s must be {\"type\": \"ANY\"} or {\"type\": \"NONE\"} — %s is allowed or not, there are no names to choose from.", path, k.name)
	case values == nil:
		d.bad.At(n, "%s has neither values nor a type — nobody would ever be meant; write {\"values\": [\"…\"]}, {\"type\": \"ANY\"} or {\"type\": \"NONE\"}.", path)
	default:
		d.values(k, path+".values", values, &e)
	}
	return e
}

func (d *decoder) which(path string, n *jsontree.Node) string {
	if n.Kind == jsontree.Scalar && slices.Contains([]string{typeSome, typeAny, typeNone}, n.Text) {
		return n.Text
	}
	hint := ""
	if up := strings.ToUpper(n.Text); slices.Contains([]string{typeSome, typeAny, typeNone}, up) {
		hint = " Write " + up + "."
	}
	d.bad.At(n, "%s: %.80q — it is one of ANY, NONE and SOME (with values).%s", path, n.Text, hint)
	return typeAny
}

func (d *decoder) values(k key, path string, n *jsontree.Node, e *entity) {
	if n.Kind != jsontree.List || len(n.Items) == 0 || len(n.Items) > maxValues {
		what := n.Kind.String()
		if n.Kind == jsontree.List {
			what = fmt.Sprintf("a list of %d", len(n.Items))
		}
		d.bad.At(n, "%s is %s — it must be a list of 1 to %d names: [\"…\"].", path, what, maxValues)
		return
	}
	for i, item := range n.Items {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.Kind != jsontree.Scalar {
			d.bad.At(item, "%s is %s — it must be a name.", at, item.Kind)
			continue
		}
		v := item.Text
		if why := d.wrong(k, v); why != "" {
			d.bad.At(item, "%s: %.80q — %s.", at, v, why)
			continue
		}
		if k.kind == paths {
			v = strings.TrimSuffix(v, ".json")
		}
		e.values = append(e.values, v)
		if top, ok := strings.CutSuffix(v, "%"); ok && k.kind == roles {
			e.below = append(e.below, top)
		} else {
			e.set[v] = true
		}
	}
}

// wrong says why a value could never fit what it is meant for.
func (d *decoder) wrong(k key, v string) string {
	switch {
	case v == "":
		return "a name must not be empty"
	case len(v) > maxValue:
		return fmt.Sprintf("a name has at most %d bytes", maxValue)
	case strings.ContainsFunc(v, unicode.IsControl):
		return "a name has no control characters"
	}
	switch k.kind {
	case roles:
		return wrongRole(v)
	case paths:
		if !IsEndpoint(strings.TrimSuffix(v, ".json")) {
			return "it is asked about no such path; it may be " + strings.Join(Endpoints, ", ")
		}
	default:
		if v == "*" {
			return `there is no pattern for names; for everybody write {"type": "ANY"}`
		}
	}
	return ""
}

func wrongRole(v string) string {
	if v == "*" {
		return ""
	}
	whole := v
	if top, ok := strings.CutSuffix(v, "/%"); ok {
		whole = top
	}
	for part := range strings.SplitSeq(whole, "/") {
		switch {
		case strings.Contains(part, "%"):
			return `% stands for all roles below another one, at the end: "eng/%"; for all roles write {"type": "ANY"}`
		case part == "", part == ".", part == "..", part == "*", part[0] == '-', strings.ContainsFunc(part, unicode.IsSpace), strings.Contains(part, `\`):
			return "no role can have this name"
		}
	}
	return ""
}
