package acl

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func must(t testing.TB, text string) *ACLs {
	t.Helper()
	a, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s:\n%v", text, err)
	}
	return a
}

// The rules as their documentation has them, one by one.
func TestFirstRuleThatFitsDecides(t *testing.T) {
	for _, c := range []struct {
		name, acls, principal string
		action                Action
		object                Object
		want                  bool
	}{
		{"no rule: permissive", `{}`, "a", RunTask, Named("root"), true},
		{"no rule: not permissive", `{"permissive": false}`, "a", RunTask, Named("root"), false},
		{"listed", `{"permissive":false,"run_tasks":[{"principals":{"values":["a"]},"users":{"values":["root","u"]}}]}`, "a", RunTask, Named("u"), true},
		{"another principal", `{"permissive":false,"run_tasks":[{"principals":{"values":["a"]},"users":{"values":["u"]}}]}`, "b", RunTask, Named("u"), false},
		{"another user", `{"permissive":false,"run_tasks":[{"principals":{"values":["a"]},"users":{"values":["u"]}}]}`, "a", RunTask, Named("root"), false},
		{"another action", `{"permissive":false,"run_tasks":[{"principals":{"values":["a"]},"users":{"values":["u"]}}]}`, "a", ViewTask, Named("u"), false},
		{"nobody as root", `{"run_tasks":[{"principals":{"type":"NONE"},"users":{"values":["root"]}}]}`, "a", RunTask, Named("root"), false},
		{"nobody as root, others", `{"run_tasks":[{"principals":{"type":"NONE"},"users":{"values":["root"]}}]}`, "a", RunTask, Named("u"), true},
		{"nothing for one", `{"run_tasks":[{"principals":{"values":["a"]},"users":{"type":"NONE"}}]}`, "a", RunTask, Named("u"), false},
		{"nothing for one, others", `{"run_tasks":[{"principals":{"values":["a"]},"users":{"type":"NONE"}}]}`, "b", RunTask, Named("u"), true},
		{"the first counts", `{"run_tasks":[{"principals":{"values":["a"]},"users":{"type":"NONE"}},{"principals":{"type":"ANY"},"users":{"type":"ANY"}}]}`, "a", RunTask, Named("u"), false},
		{"unknown caller is not on a list", `{"permissive":false,"run_tasks":[{"principals":{"values":["a"]},"users":{"type":"ANY"}}]}`, "", RunTask, Named("u"), false},
		{"unknown caller is anybody", `{"permissive":false,"run_tasks":[{"principals":{"type":"ANY"},"users":{"values":["u"]}}]}`, "", RunTask, Named("u"), true},
		{"an object without a name", `{"permissive":false,"view_flags":[{"principals":{"values":["a"]},"flags":{"type":"ANY"}}]}`, "a", ViewFlags, Object{}, true},
		{"an object without a name, refused", `{"view_flags":[{"principals":{"type":"ANY"},"flags":{"type":"NONE"}}]}`, "a", ViewFlags, Object{}, false},
		{"nobody signed it", `{"permissive":false,"unreserve_resources":[{"principals":{"values":["a"]},"reserver_principals":{"values":["a"]}}]}`, "a", UnreserveResources, Named(""), false},
		{"a tree of roles", `{"permissive":false,"register_frameworks":[{"principals":{"values":["a"]},"roles":{"values":["eng/%"]}}]}`, "a", RegisterFramework, Named("eng/web/x"), true},
		{"a tree of roles without its top", `{"permissive":false,"register_frameworks":[{"principals":{"values":["a"]},"roles":{"values":["eng/%"]}}]}`, "a", RegisterFramework, Named("eng"), false},
		{"a name that only begins so", `{"permissive":false,"register_frameworks":[{"principals":{"values":["a"]},"roles":{"values":["eng/%"]}}]}`, "a", RegisterFramework, Named("engine/x"), false},
		{"a tree and a name in one rule", `{"permissive":false,"view_roles":[{"principals":{"values":["a"]},"roles":{"values":["eng/%","ops"]}}]}`, "a", ViewRole, Named("ops"), true},
		{"nobody below", `{"view_roles":[{"principals":{"type":"NONE"},"roles":{"values":["eng/%"]}}]}`, "a", ViewRole, Named("eng/x"), false},
		{"% is only for roles", `{"permissive":false,"run_tasks":[{"principals":{"values":["a"]},"users":{"values":["x/%"]}}]}`, "a", RunTask, Named("x/y"), false},
		{"both quota actions have one key", `{"update_quotas":[{"principals":{"type":"ANY"},"roles":{"values":["q"]}},{"principals":{"type":"ANY"},"roles":{"type":"NONE"}}]}`, "a", UpdateQuotaOld, Named("r"), false},
		{"both quota actions have one key, the new one", `{"update_quotas":[{"principals":{"type":"ANY"},"roles":{"values":["q"]}},{"principals":{"type":"ANY"},"roles":{"type":"NONE"}}]}`, "a", UpdateQuota, Named("q"), true},
		{"a path", `{"permissive":false,"get_endpoints":[{"principals":{"values":["a"]},"paths":{"values":["/metrics/snapshot.json"]}}]}`, "a", GetEndpoint, Named("/metrics/snapshot"), true},
		{"no such action", `{}`, "a", Action(54), Object{}, false},
		{"the parent's user alone", `{"permissive":false,"` + keyParent + `":[{"principals":{"values":["a"]},"users":{"values":["p"]}}]}`, "a", LaunchNestedContainer, Named("p"), true},
		{"the parent's user, and no right to the command's", `{"permissive":false,"` + keyParent + `":[{"principals":{"values":["a"]},"users":{"values":["p"]}}]}`, "a", LaunchNestedContainer, Nested(Named("p"), Named("c")), false},
		{"the command's user, and no right to the parent's", `{"permissive":false,"launch_nested_containers_as_user":[{"principals":{"values":["a"]},"users":{"values":["c"]}}]}`, "a", LaunchNestedContainer, Nested(Named("p"), Named("c")), false},
		{"both", `{"permissive":false,"launch_nested_containers_as_user":[{"principals":{"values":["a"]},"users":{"values":["c"]}}],"` + keyParent + `":[{"principals":{"values":["a"]},"users":{"values":["p"]}}]}`, "a", LaunchNestedContainer, Nested(Named("p"), Named("c")), true},
		{"a session has keys of its own", `{"permissive":false,"launch_nested_container_sessions_as_user":[{"principals":{"values":["a"]},"users":{"values":["c"]}}],"` + keyParent + `":[{"principals":{"values":["a"]},"users":{"values":["p"]}}]}`, "a", LaunchNestedContainerSession, Nested(Named("p"), Named("c")), false},
		{"of an unknown name the worst", `{"access_sandboxes":[{"principals":{"type":"NONE"},"users":{"values":["root"]}}]}`, "a", AccessSandbox, Unknown(), false},
		{"of an unknown name the worst: no list suffices", `{"permissive":false,"access_sandboxes":[{"principals":{"type":"ANY"},"users":{"values":["root"]}}]}`, "a", AccessSandbox, Unknown(), false},
		{"of an unknown name: all may", `{"access_sandboxes":[{"principals":{"type":"ANY"},"users":{"type":"ANY"}},{"principals":{"type":"NONE"},"users":{"values":["root"]}}]}`, "a", AccessSandbox, Unknown(), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := must(t, c.acls)
			if got := a.Allowed(c.principal, c.action, c.object); got != c.want {
				t.Errorf("%s: %q may %s %+v: %v", c.acls, c.principal, c.action, c.object, got)
			}
			if !c.want && c.action <= MaxAction && !a.Restricts(c.action) {
				t.Errorf("it refuses %s and says that it does not restrict it", c.action)
			}
		})
	}
}

func TestNoACLsAllowEverything(t *testing.T) {
	var a *ACLs
	for action := RegisterFramework; action <= MaxAction; action++ {
		if a.Restricts(action) || !a.Allowed("", action, Object{}) || !a.For("a").May(action, Unknown()) {
			t.Errorf("%s is refused", action)
		}
		if (Judge{}).May(action, Object{}) || !(Judge{}).Restricts(action) {
			t.Errorf("a judge of nobody allows %s", action)
		}
	}
}

// There are 53 actions, as in Mesos 1.11, and each has rules under a key.
func TestEveryActionHasAKey(t *testing.T) {
	if len(table) != 53 {
		t.Errorf("%d actions", len(table))
	}
	for action := RegisterFramework; action <= MaxAction; action++ {
		if action.Key() == "" || action.String() == "UNKNOWN" {
			t.Errorf("action %d has no row", action)
		}
	}
	// 53 actions, of which two are about quotas, and two halves of launches.
	if n := len(keys()); n != 54 {
		t.Errorf("%d keys", n)
	}
	if Action(0).String() != "UNKNOWN" || Action(0).Key() != "" {
		t.Error("there is an action 0")
	}
}

// What is wrong is said with its place, the reason and what to do.
func TestMistakes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`[]`, `1:1: ACLs are a list — they must be a mapping`},
		{`{"permissive": "maybe"}`, `1:16: permissive must be true`},
		{"{\n  \"run_task\": []}", `2:3: unknown key "run_task" in the ACLs — did you mean "run_tasks"?`},
		{`{"set_quotas": []}`, `1:2: "set_quotas" is no key of ACLs any more — write "update_quotas".`},
		{`{"completely_else": []}`, `docs/authorization.md lists the keys`},
		{`{"run_tasks": {}}`, `1:15: run_tasks is a mapping — it must be a list of rules: [{"principals": …, "users": …}].`},
		{`{"run_tasks": []}`, `1:15: run_tasks has no rules — remove it`},
		{`{"run_tasks": [1]}`, `1:16: run_tasks[0] is a single value — a rule is`},
		{`{"run_tasks": [{"principals": {"type": "ANY"}}]}`, `1:16: run_tasks[0] has no users — say whom it is about`},
		{`{"run_tasks": [{"principals": {"type": "ANY"}, "roles": {"type": "ANY"}, "users": {"type": "ANY"}}]}`, `1:48: unknown key "roles" in run_tasks[0] — a rule of run_tasks has principals and users.`},
		{`{"run_tasks": [{"principals": {"type": "any"}, "users": {"type": "ANY"}}]}`, `run_tasks[0].principals.type: "any" — it is one of ANY, NONE and SOME (with values). Write ANY.`},
		{`{"run_tasks": [{"principals": {}, "users": {"type": "ANY"}}]}`, `run_tasks[0].principals has neither values nor a type — nobody would ever be meant`},
		{`{"run_tasks": [{"principals": "a", "users": {"type": "ANY"}}]}`, `run_tasks[0].principals is a single value — write {"values"`},
		{`{"run_tasks": [{"principals": {"type": "ANY", "values": ["a"]}, "users": {"type": "ANY"}}]}`, `has values beside type ANY, where they mean nothing`},
		{`{"run_tasks": [{"principals": {"value": ["a"]}, "users": {"type": "ANY"}}]}`, `unknown key "value" in run_tasks[0].principals — known are type and values.`},
		{`{"run_tasks": [{"principals": {"values": []}, "users": {"type": "ANY"}}]}`, `run_tasks[0].principals.values is a list of 0 — it must be a list of 1 to 1000 names`},
		{`{"run_tasks": [{"principals": {"values": "a"}, "users": {"type": "ANY"}}]}`, `run_tasks[0].principals.values is a single value`},
		{`{"run_tasks": [{"principals": {"values": [["a"]]}, "users": {"type": "ANY"}}]}`, `run_tasks[0].principals.values[0] is a list — it must be a name.`},
		{`{"run_tasks": [{"principals": {"values": ["*"]}, "users": {"type": "ANY"}}]}`, `there is no pattern for names; for everybody write {"type": "ANY"}`},
		{`{"run_tasks": [{"principals": {"values": [""]}, "users": {"type": "ANY"}}]}`, `a name must not be empty`},
		{`{"view_roles": [{"principals": {"values": ["a"]}, "roles": {"values": ["%"]}}]}`, `% stands for all roles below another one, at the end`},
		{`{"view_roles": [{"principals": {"values": ["a"]}, "roles": {"values": ["a/%/b"]}}]}`, `% stands for all roles below another one, at the end`},
		{`{"view_roles": [{"principals": {"values": ["a"]}, "roles": {"values": ["a//b"]}}]}`, `no role can have this name`},
		{`{"view_flags": [{"principals": {"values": ["a"]}, "flags": {"values": ["x"]}}]}`, `view_flags[0].flags must be {"type": "ANY"} or {"type": "NONE"} — view_flags is allowed or not`},
		{`{"start_maintenances": [{"principals": {"values": ["a"]}, "machines": {}}]}`, `there are no names to choose from`},
		{`{"get_endpoints": [{"principals": {"values": ["a"]}, "paths": {"values": ["/state"]}}]}`, `it is asked about no such path; it may be /containerizer/debug`},
		{`{"permissive": true, "permissive": false}`, `1:22: key "permissive" is here a second time (first in line 1)`},
		{`{"permissive": true`, `it ends too early`},
		{`{"permissive": true} {}`, `a second value begins here`},
		{"{\"permissive\":\n tru}", `2:5: not JSON: `},
		{"{\"a\xff\": 1}", `1:4: this is not UTF-8`},
		{strings.Repeat("[", 40) + strings.Repeat("]", 40), `nested more than 16 deep`},
		{strings.Repeat(" ", MaxBytes+1), `at most 262144 are allowed`},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.200s:\n%v\nwant %s", c.text, err, c.want)
		}
	}
}

func TestTooManyRules(t *testing.T) {
	one := `{"principals":{"type":"ANY"},"users":{"type":"ANY"}}`
	text := `{"run_tasks":[` + strings.Repeat(one+",", maxRules) + one + `]}`
	if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), "more than 2000 rules") {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"permissive":false,"register_frameworks":[{"principals":{"values":["a"]},"roles":{"values":["eng/%","ops"]}}]}`))
	f.Add([]byte(`{"run_tasks":[{"principals":{"type":"NONE"},"users":{"values":["root"]}},{"principals":{"type":"ANY"},"users":{"type":"ANY"}}]}`))
	f.Add([]byte(`{"get_endpoints":[{"principals":{"type":"ANY"},"paths":{"values":["/metrics/snapshot.json"]}}],"view_flags":[{"principals":{"type":"ANY"},"flags":{"type":"NONE"}}]}`))
	f.Add([]byte(`{"permissive":tru`))
	f.Add([]byte(`{"view_roles":[{"principals":{"type":"any"},"roles":{"values":["%"]}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := Parse(text)
		if err != nil {
			if !strings.Contains(err.Error(), ":") {
				t.Errorf("an error without a place: %v", err)
			}
			return
		}
		again, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Parse(again)
		if err != nil {
			t.Fatalf("%s, written as %s: %v", text, again, err)
		}
		if !reflect.DeepEqual(a, b) || !a.Equal(b) {
			t.Errorf("%s is read as %+v", again, b)
		}
		for action := RegisterFramework; action <= MaxAction; action++ {
			for _, o := range []Object{{}, Named("a"), Named("eng/x"), Unknown()} {
				if !a.Restricts(action) && !a.Allowed("p", action, o) {
					t.Errorf("%s is refused and not restricted", action)
				}
			}
		}
	})
}
