package state

import "strconv"

// What is shared is used by many and is there once: a bag of what is in use holds it once,
// and how many use it is counted beside, per agent and, in a role of a framework, per agent
// too. The count is of tasks, so that the last one to end gives it back.

// sharing names one shared resource: for a framework in a role on an agent, for an agent in
// none.
type sharing struct {
	role     string
	agent    AgentID
	resource string
}

func sharingOf(r Resource, role string, agent AgentID) sharing {
	return sharing{role, agent, r.Role + "\x00" + r.Detail + "\x00" + strconv.FormatInt(r.Milli, 36)}
}

// uses counts tasks by what they share; nil is empty.
type uses map[sharing]int

// first are the resources without those shared ones that somebody uses already.
func (u uses) first(rs Resources, role string, agent AgentID) Resources {
	if !rs.AnyShared() {
		return rs
	}
	var out Resources
	for _, r := range rs {
		if !r.Shared() || u[sharingOf(r, role, agent)] == 0 {
			out = append(out, r)
		}
	}
	return out
}

// more counts one task more.
func (u uses) more(rs Resources, role string, agent AgentID) uses {
	if !rs.AnyShared() {
		return u
	}
	if u == nil {
		u = uses{}
	}
	for _, r := range rs {
		if r.Shared() {
			u[sharingOf(r, role, agent)]++
		}
	}
	return u
}

// less counts one task less; last are the resources without those that others still use.
func (u uses) less(rs Resources, role string, agent AgentID) (last Resources) {
	if !rs.AnyShared() {
		return rs
	}
	for _, r := range rs {
		if !r.Shared() {
			last = append(last, r)
			continue
		}
		key := sharingOf(r, role, agent)
		if u[key] > 1 {
			u[key]--
			continue
		}
		delete(u, key)
		last = append(last, r)
	}
	return last
}

// take lets tasks of a framework hold resources of an agent, each its own; with an error
// nothing is changed. Framework or agent may be nil: it is not there any more.
func take(f *Framework, a *Agent, role string, agent AgentID, bags ...Resources) error {
	for i, rs := range bags {
		if err := takeOne(f, a, role, agent, rs); err != nil {
			for _, taken := range bags[:i] {
				giveBack(f, a, role, agent, taken)
			}
			return err
		}
	}
	return nil
}

func takeOne(f *Framework, a *Agent, role string, agent AgentID, rs Resources) error {
	var used, allocated Resources
	var err error
	if a != nil {
		if used, err = a.used.Plus(a.uses.first(rs, "", "")); err != nil {
			return err
		}
	}
	if f != nil {
		if allocated, err = f.allocated[role].Plus(f.uses.first(rs, role, agent)); err != nil {
			return err
		}
		f.allocated[role], f.uses = allocated, f.uses.more(rs, role, agent)
	}
	if a != nil {
		a.used, a.uses = used, a.uses.more(rs, "", "")
	}
	return nil
}

// giveBack ends that.
func giveBack(f *Framework, a *Agent, role string, agent AgentID, rs Resources) {
	if a != nil {
		a.used, _ = a.used.Minus(a.uses.less(rs, "", ""))
	}
	if f == nil {
		return
	}
	if left, _ := f.allocated[role].Minus(f.uses.less(rs, role, agent)); len(left) > 0 {
		f.allocated[role] = left
	} else {
		delete(f.allocated, role)
	}
}

// UsesOf is how many tasks use a shared resource of the agent.
func (a *Agent) UsesOf(r Resource) int { return a.uses[sharingOf(r, "", "")] }
