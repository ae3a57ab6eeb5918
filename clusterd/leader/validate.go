package leader

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
)

// maxID is the length of an id in bytes: agents make file names of them.
const maxID = 255

// checkID holds task and framework ids to what a file name may be.
func checkID(kind, id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%s must not be empty", kind)
	case len(id) > maxID:
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", kind, len(id), maxID)
	case id == "." || id == "..":
		return fmt.Errorf("%s must not be %q", kind, id)
	}
	if !utf8.ValidString(id) {
		return fmt.Errorf("%s %q is not UTF-8", kind, id)
	}
	for _, r := range id {
		if r == '/' || r == '\\' || unicode.IsControl(r) {
			return fmt.Errorf("%s %q contains the character %q, which is not allowed", kind, id, r)
		}
	}
	return nil
}

// checkRole holds a role's name to the rules of hierarchical roles.
func checkRole(role string) error {
	if role == "*" {
		return nil
	}
	if role == "" {
		return fmt.Errorf("role must not be empty")
	}
	for part := range strings.SplitSeq(role, "/") {
		switch {
		case part == "":
			return fmt.Errorf("role %q begins or ends with a slash or has two in a row", role)
		case part == "." || part == ".." || part == "*":
			return fmt.Errorf("role %q has the component %q, which is not allowed", role, part)
		case part[0] == '-':
			return fmt.Errorf("role %q has a component that begins with '-'", role)
		case strings.ContainsFunc(part, func(r rune) bool {
			return unicode.IsSpace(r) || unicode.IsControl(r) || r == '\\' || r == utf8.RuneError
		}):
			return fmt.Errorf("role %q contains white space, a control character, a backslash or what is not UTF-8", role)
		}
	}
	return nil
}

func capabilities(info *mesosv1.FrameworkInfo) state.Capabilities {
	var out state.Capabilities
	for _, c := range info.GetCapabilities() {
		if t := c.GetType(); t > 0 && t < 32 {
			out |= 1 << t
		}
	}
	return out
}

// rolesOf gives the roles a framework subscribes to, by either form.
func rolesOf(info *mesosv1.FrameworkInfo) []string {
	if capabilities(info).Has(state.CapMultiRole) {
		roles := slices.Clone(info.GetRoles())
		slices.Sort(roles)
		return slices.Compact(roles)
	}
	return []string{info.GetRole()}
}

// checkFramework is what a subscription may get wrong; the sentences go to the
// framework in an ERROR event.
func checkFramework(info *mesosv1.FrameworkInfo, suppressed []string) error {
	caps := capabilities(info)
	switch {
	case caps.Has(state.CapMultiRole) && info.Role != nil:
		return fmt.Errorf("'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable")
	case !caps.Has(state.CapMultiRole) && len(info.GetRoles()) > 0:
		return fmt.Errorf("'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable")
	}
	if id := info.GetId().GetValue(); id != "" {
		if err := checkID("framework id", id); err != nil {
			return err
		}
	}
	if t := info.GetFailoverTimeout(); math.IsNaN(t) || t < 0 || t > math.MaxInt64/1e9 {
		return fmt.Errorf("the framework failover timeout (%v seconds) is not a duration", t)
	}
	seen := map[string]bool{}
	for _, role := range info.GetRoles() {
		if seen[role] {
			return fmt.Errorf("'FrameworkInfo.roles' contains %q twice", role)
		}
		seen[role] = true
	}
	roles := rolesOf(info)
	for _, role := range roles {
		if err := checkRole(role); err != nil {
			return fmt.Errorf("'FrameworkInfo.roles' is invalid: %w", err)
		}
	}
	for _, role := range suppressed {
		if !slices.Contains(roles, role) {
			return fmt.Errorf("suppressed role %q is not contained in the list of roles %v", role, roles)
		}
	}
	for role, filter := range info.GetOfferFilters() {
		if !slices.Contains(roles, role) {
			return fmt.Errorf("offer filters are set for role %q, which the framework is not subscribed to", role)
		}
		for _, q := range filter.GetMinAllocatableResources().GetQuantities() {
			for name, v := range q.GetQuantities() {
				if _, ok := state.Thousandths(v.GetValue()); !ok {
					return fmt.Errorf("the minimum of %s for role %q is no amount", name, role)
				}
			}
		}
	}
	return nil
}

// unsupported names what a task asks for and nothing here would act on: saying so is
// better than running it without.
func unsupported(t *mesosv1.TaskInfo) string {
	if t.GetExecutor() != nil && !builtIn(t.GetExecutor()) {
		return "" // it is the executor's to understand
	}
	return unsupportedIn(t.GetCommand())
}

// unsupportedIn is that of a command, a task's or an executor's.
func unsupportedIn(command *mesosv1.CommandInfo) string {
	for _, v := range command.GetEnvironment().GetVariables() {
		if v.GetType() == mesosv1.Environment_Variable_SECRET && v.GetSecret().GetType() != mesosv1.Secret_VALUE {
			return fmt.Sprintf("environment variable %q refers to a secret by name, and there is no store of those; give it by value", v.GetName())
		}
	}
	return ""
}

// checkTask is what can be said of one task by itself and of the agent and role that it is
// launched with; asks is what it wants. A task of a group may have a command and an executor.
func checkTask(t *mesosv1.TaskInfo, agent state.AgentID, role string, grouped bool) (asks state.Resources, err error) {
	if err := checkID("task id", t.GetTaskId().GetValue()); err != nil {
		return nil, err
	}
	if a := t.GetAgentId().GetValue(); a != string(agent) {
		return nil, fmt.Errorf("task uses invalid agent %s while agent %s is expected", a, agent)
	}
	if (t.GetCommand() == nil) == (t.GetExecutor() == nil) && !grouped {
		return nil, fmt.Errorf("task should have at least one (but not both) of CommandInfo or ExecutorInfo present")
	}
	if why := unsupported(t); why != "" {
		return nil, fmt.Errorf("%s", why)
	}
	if p := t.GetKillPolicy().GetGracePeriod(); p != nil && p.GetNanoseconds() < 0 {
		return nil, fmt.Errorf("task's 'kill_policy.grace_period' must be non-negative")
	}
	if m := t.GetMaxCompletionTime(); m != nil && m.GetNanoseconds() < 0 {
		return nil, fmt.Errorf("task's 'max_completion_time' must be non-negative")
	}
	if err := checkChecks(t); err != nil {
		return nil, err
	}
	asks, err = fromWire(t.GetResources())
	if err != nil {
		return nil, fmt.Errorf("task uses invalid resources: %w", err)
	}
	for _, r := range t.GetResources() {
		if a := r.GetAllocationInfo(); a != nil && a.GetRole() != role {
			return nil, fmt.Errorf("task uses %s allocated to the role %q, its offers are of the role %q", r.GetName(), a.GetRole(), role)
		}
	}
	if len(asks) == 0 {
		return nil, fmt.Errorf("task uses no resources")
	}
	if err := oneKind(asks); err != nil {
		return nil, err
	}
	for _, r := range asks {
		for _, g := range r.Ranges {
			if r.Name == state.Ports && g.End > math.MaxUint16 {
				return nil, fmt.Errorf("task uses port %d, which does not exist", g.End)
			}
		}
	}
	return asks, checkLimits(t, asks)
}

// oneKind refuses what would in part be taken back, of a task or with its executor.
func oneKind(asks state.Resources) error {
	for i, r := range asks[min(1, len(asks)):] {
		if asks[i].Name == r.Name && asks[i].Revocable() != r.Revocable() {
			return fmt.Errorf("task uses both revocable and non-revocable %s; ask for one kind of them", r.Name)
		}
	}
	return nil
}

func checkLimits(t *mesosv1.TaskInfo, asks state.Resources) error {
	for name, limit := range t.GetLimits() {
		if name != state.CPUs && name != state.Mem {
			return fmt.Errorf("task sets a limit for %q; only cpus and mem can have one", name)
		}
		v := limit.GetValue()
		if math.IsInf(v, 1) {
			continue
		}
		milli, ok := state.Thousandths(v)
		if !ok || milli < asks.Milli(name) {
			return fmt.Errorf("task's limit of %s (%v) is less than its request (%v)", name, v, float64(asks.Milli(name))/1000)
		}
	}
	return nil
}
