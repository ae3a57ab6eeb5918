package acl

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// reference decides by the text of the ACLs alone, in the plainest way: it unrolls each
// rule into one for every pair of values, and knows the tables of what fits and what
// allows. It shares no code with what it checks.
type reference struct {
	permissive bool
	rules      map[string][]pair
}

// pair is one unrolled rule; "ANY" and "NONE" are marked by a star in front.
type pair struct{ principal, object string }

func refer(t *testing.T, text []byte) reference {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		t.Fatal(err)
	}
	out := reference{permissive: true, rules: map[string][]pair{}}
	for name, list := range raw {
		if name == "permissive" {
			out.permissive = string(list) == "true"
			continue
		}
		var rows []map[string]struct {
			Type   string
			Values []string
		}
		if err := json.Unmarshal(list, &rows); err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			var who, what []string
			for side, e := range row {
				values := e.Values
				if e.Type == "ANY" || e.Type == "NONE" {
					values = []string{"*" + e.Type}
				}
				if side == "principals" {
					who = values
				} else {
					what = values
				}
			}
			for _, p := range who {
				for _, o := range what {
					out.rules[name] = append(out.rules[name], pair{p, o})
				}
			}
		}
	}
	return out
}

// The keys that actions are under, and what is special of their objects, once more and by
// hand: from the documentation of ACLs.
var refKeys = strings.Fields(`- register_frameworks run_tasks teardown_frameworks reserve_resources unreserve_resources create_volumes
	destroy_volumes get_endpoints view_roles update_weights get_quotas update_quotas view_frameworks view_tasks view_executors
	access_sandboxes access_mesos_logs view_flags launch_nested_containers_as_user kill_nested_containers wait_nested_containers
	launch_nested_container_sessions_as_user attach_containers_input attach_containers_output view_containers set_log_level
	remove_nested_containers register_agents update_maintenance_schedules get_maintenance_schedules start_maintenances
	stop_maintenances get_maintenance_statuses mark_agents_gone launch_standalone_containers kill_standalone_containers
	wait_standalone_containers remove_standalone_containers modify_resource_provider_configs view_standalone_containers
	prune_images resize_volumes create_block_disks destroy_block_disks create_mount_disks destroy_mount_disks
	view_resource_providers mark_resource_providers_gone destroy_raw_disks update_quotas drain_agents deactivate_agents reactivate_agents`)

var refObjects = map[string]string{
	"teardown_frameworks": "framework_principals", "unreserve_resources": "reserver_principals", "destroy_volumes": "creator_principals",
	"get_endpoints": "paths", "access_mesos_logs": "logs", "view_flags": "flags", "set_log_level": "level", "register_agents": "agents",
	"mark_agents_gone": "agents", "drain_agents": "agents", "deactivate_agents": "agents", "reactivate_agents": "agents", "prune_images": "images",
	"register_frameworks": "roles", "reserve_resources": "roles", "create_volumes": "roles", "view_roles": "roles", "update_weights": "roles",
	"get_quotas": "roles", "update_quotas": "roles", "resize_volumes": "roles", "create_block_disks": "roles", "destroy_block_disks": "roles",
	"create_mount_disks": "roles", "destroy_mount_disks": "roles", "destroy_raw_disks": "roles",
	"update_maintenance_schedules": "machines", "get_maintenance_schedules": "machines", "start_maintenances": "machines",
	"stop_maintenances": "machines", "get_maintenance_statuses": "machines",
	"modify_resource_provider_configs": "resource_providers", "view_resource_providers": "resource_providers", "mark_resource_providers_gone": "resource_providers",
}

func refObject(key string) string {
	if o := refObjects[key]; o != "" {
		return o
	}
	return "users"
}

func refWhole(key string) bool {
	return slices.Contains([]string{"logs", "flags", "level", "agents", "machines", "resource_providers", "images"}, refObject(key)) || strings.Contains(key, "standalone")
}

// one decides about one list of rules; nil stands for what has no name.
func (r reference) one(key string, principal, object *string) bool {
	tree := refObject(key) == "roles"
	if refWhole(key) {
		object = nil
	}
	for _, p := range r.rules[key] {
		fits := func(rule string, asked *string, tree bool) bool {
			if rule == "*ANY" || rule == "*NONE" {
				return true
			}
			if asked == nil {
				return false
			}
			if tree && strings.HasSuffix(rule, "/%") {
				top := strings.Split(strings.TrimSuffix(rule, "/%"), "/")
				parts := strings.Split(*asked, "/")
				return len(parts) > len(top) && slices.Equal(parts[:len(top)], top)
			}
			return rule == *asked
		}
		if fits(p.principal, principal, false) && fits(p.object, object, tree) {
			return p.principal != "*NONE" && p.object != "*NONE"
		}
	}
	return r.permissive
}

var (
	matrixPrincipals = []string{"", "ann", "bob", "marathon"}
	matrixRoles      = []string{"*", "eng", "eng/web", "eng/web/x", "engine", "ops"}
	matrixNames      = []string{"", "root", "nobody", "ann", "bob"}
	matrixValues     = []string{"root", "nobody", "ann", "bob"}
	matrixRoleValues = []string{"*", "eng", "eng/%", "eng/web/%", "ops", "ops/%"}
)

// randomACLs writes ACLs with some rules under some keys.
func randomACLs(r *rand.Rand) []byte {
	doc := map[string]any{}
	if r.IntN(3) > 0 {
		doc["permissive"] = r.IntN(2) == 0
	}
	entity := func(values []string) map[string]any {
		switch r.IntN(5) {
		case 0:
			return map[string]any{"type": "ANY"}
		case 1:
			return map[string]any{"type": "NONE"}
		}
		list := slices.Clone(values)
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		out := map[string]any{"values": list[:1+r.IntN(min(3, len(list)))]}
		if r.IntN(2) == 0 {
			out["type"] = "SOME"
		}
		return out
	}
	all := append(slices.Clone(refKeys[1:]), "launch_nested_containers_under_parent_with_user", "launch_nested_container_sessions_under_parent_with_user")
	for _, key := range all {
		if r.IntN(3) == 0 {
			continue
		}
		var rows []any
		for range 1 + r.IntN(4) {
			values := matrixValues
			switch {
			case refObject(key) == "roles":
				values = matrixRoleValues
			case refObject(key) == "paths":
				values = Endpoints
			}
			objects := entity(values)
			for refWhole(key) && objects["values"] != nil {
				objects = entity(values)
			}
			rows = append(rows, map[string]any{"principals": entity(matrixPrincipals[1:]), refObject(key): objects})
		}
		doc[key] = rows
	}
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return text
}

// TestMatrix asks both authorizers for every principal, action and object of many sets of
// ACLs. ACL_SEED repeats a run.
func TestMatrix(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("ACL_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ACL_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	asked, refused := 0, 0
	for range 150 {
		text := randomACLs(r)
		a := must(t, string(text))
		ref := refer(t, text)
		for action := RegisterFramework; action <= MaxAction; action++ {
			for _, principal := range matrixPrincipals {
				n, no := matrixRow(t, text, a, ref, action, principal)
				asked, refused = asked+n, refused+no
			}
			if t.Failed() {
				t.Fatalf("ACL_SEED=%d: %s", seed, text)
			}
		}
	}
	if refused < asked/10 || refused > asked*9/10 {
		t.Errorf("%d of %d refused: the matrix proves little", refused, asked)
	}
}

func matrixRow(t *testing.T, text []byte, a *ACLs, ref reference, action Action, principal string) (asked, refused int) {
	key := refKeys[action]
	who := &principal
	if principal == "" {
		who = nil
	}
	check := func(what string, o Object, want bool) {
		asked++
		if !want {
			refused++
		}
		if got := a.Allowed(principal, action, o); got != want {
			t.Errorf("%q %s %s: %v, the reference says %v", principal, action, what, got, want)
		}
		if !want && !a.Restricts(action) {
			t.Errorf("%s is refused and not restricted", action)
		}
	}
	names := matrixNames
	switch refObject(key) {
	case "roles":
		names = matrixRoles
	case "paths":
		names = Endpoints
	}
	parent := ""
	switch action {
	case LaunchNestedContainer:
		parent = "launch_nested_containers_under_parent_with_user"
	case LaunchNestedContainerSession:
		parent = "launch_nested_container_sessions_under_parent_with_user"
	}
	if parent == "" {
		check("of no name", Object{}, ref.one(key, who, nil))
		for _, name := range names {
			check(fmt.Sprintf("%q", name), Named(name), ref.one(key, who, &name))
		}
		return asked, refused
	}
	for _, above := range names {
		check("below "+above, Named(above), ref.one(parent, who, &above))
		check("below "+above+", without a user", Nested(Named(above), Object{}), ref.one(parent, who, &above) && ref.one(key, who, nil))
		for _, user := range names {
			check("below "+above+" as "+user, Nested(Named(above), Named(user)), ref.one(parent, who, &above) && ref.one(key, who, &user))
		}
	}
	return asked, refused
}
