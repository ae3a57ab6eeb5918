// Package constraints is which agents a framework wants offers from, by role: the offer
// constraints of the scheduler API, compiled once and asked for every agent.
//
//	Compile(offer_constraints, roles) → Set;  Set.Allow(role, agent) → bool
//
// A role's groups are alternatives, the constraints inside a group must all hold. Only
// text can be compared: an attribute of another type satisfies every comparison, so that
// clients may learn to compare those later. Regular expressions match the whole text.
//
// Invariants: what Compile accepted is bounded (groups, constraints, size of each
// expression), and Allow takes time in proportion to the text it looks at. A constraint
// never reads what an agent's resources are; that is alloc's.
package constraints

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Bounds of one framework's constraints. The first two are Mesos' defaults for RE2
// (memory in bytes, size of the program); the others bound what Mesos does not.
const (
	maxPattern  = 4096
	maxProgram  = 100
	maxGroups   = 1000 // of one role
	maxInAGroup = 1000
)

// Agent is what constraints look at.
type Agent struct {
	Hostname   string
	Attributes []*mesosv1.Attribute
	Domain     *mesosv1.DomainInfo
}

// Set is a framework's constraints; the zero value allows everything.
type Set struct{ roles map[string][]group }

type group []constraint

type constraint struct {
	pick  func(*Agent) (text string, isText, there bool)
	holds func(text string, isText, there bool) bool
}

// Compile reads constraints of a framework that is subscribed to these roles. Its errors
// are sentences for the framework.
func Compile(c *scheduler.OfferConstraints, roles []string) (Set, error) {
	var out Set
	for role, rc := range c.GetRoleConstraints() {
		if !slices.Contains(roles, role) {
			return Set{}, fmt.Errorf("offer constraints are set for role %q, which is not in the list of roles %v", role, roles)
		}
		groups := rc.GetGroups()
		if len(groups) == 0 || len(groups) > maxGroups {
			return Set{}, fmt.Errorf("the offer constraints of role %q have %d groups; 1 to %d are possible", role, len(groups), maxGroups)
		}
		if out.roles == nil {
			out.roles = map[string][]group{}
		}
		for at, g := range groups {
			compiled, err := compileGroup(g.GetAttributeConstraints())
			if err != nil {
				return Set{}, fmt.Errorf("the offer constraints of role %q, group %d: %w", role, at, err)
			}
			out.roles[role] = append(out.roles[role], compiled)
		}
	}
	return out, nil
}

func compileGroup(list []*scheduler.AttributeConstraint) (group, error) {
	if len(list) == 0 || len(list) > maxInAGroup {
		return nil, fmt.Errorf("it has %d constraints; 1 to %d are possible", len(list), maxInAGroup)
	}
	var out group
	for at, c := range list {
		one, err := compile(c)
		if err != nil {
			return nil, fmt.Errorf("constraint %d: %w", at, err)
		}
		out = append(out, one)
	}
	return out, nil
}

func compile(c *scheduler.AttributeConstraint) (out constraint, err error) {
	if out.pick, err = selector(c.GetSelector()); err != nil {
		return out, err
	}
	out.holds, err = predicate(c.GetPredicate())
	return out, err
}

func selector(s *scheduler.AttributeConstraint_Selector) (func(*Agent) (string, bool, bool), error) {
	switch {
	case s.GetAttributeName() != "" && s.PseudoattributeType != nil, s.GetAttributeName() == "" && s.GetPseudoattributeType() == 0:
		return nil, fmt.Errorf("its selector must name either an attribute or one of HOSTNAME, REGION and ZONE")
	case s.GetAttributeName() != "":
		name := s.GetAttributeName()
		return func(a *Agent) (string, bool, bool) {
			for _, x := range a.Attributes { // of several of one name the first counts
				if x.GetName() == name {
					return x.GetText().GetValue(), x.GetType() == mesosv1.Value_TEXT, true
				}
			}
			return "", false, false
		}, nil
	}
	switch s.GetPseudoattributeType() {
	case scheduler.AttributeConstraint_Selector_HOSTNAME:
		return func(a *Agent) (string, bool, bool) { return a.Hostname, true, true }, nil
	case scheduler.AttributeConstraint_Selector_REGION:
		return func(a *Agent) (string, bool, bool) {
			return a.Domain.GetFaultDomain().GetRegion().GetName(), true, a.Domain.GetFaultDomain() != nil
		}, nil
	case scheduler.AttributeConstraint_Selector_ZONE:
		return func(a *Agent) (string, bool, bool) {
			return a.Domain.GetFaultDomain().GetZone().GetName(), true, a.Domain.GetFaultDomain() != nil
		}, nil
	}
	return nil, fmt.Errorf("its selector is of the unknown kind %d", s.GetPseudoattributeType())
}

func predicate(p *scheduler.AttributeConstraint_Predicate) (func(string, bool, bool) bool, error) {
	switch {
	case p.GetExists() != nil:
		return func(_ string, _, there bool) bool { return there }, nil
	case p.GetNotExists() != nil:
		return func(_ string, _, there bool) bool { return !there }, nil
	case p.GetTextEquals() != nil:
		want := p.GetTextEquals().GetValue()
		return func(text string, isText, there bool) bool { return there && (!isText || text == want) }, nil
	case p.GetTextNotEquals() != nil:
		want := p.GetTextNotEquals().GetValue()
		return func(text string, isText, there bool) bool { return !there || !isText || text != want }, nil
	case p.GetTextMatches() != nil:
		re, err := expression(p.GetTextMatches().GetRegex())
		return func(text string, isText, there bool) bool { return there && (!isText || re.MatchString(text)) }, err
	case p.GetTextNotMatches() != nil:
		re, err := expression(p.GetTextNotMatches().GetRegex())
		return func(text string, isText, there bool) bool { return !there || !isText || !re.MatchString(text) }, err
	}
	return nil, fmt.Errorf("it has no predicate that is known here")
}

// expression compiles a pattern that has to match the whole text.
func expression(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("a regular expression has %d bytes, at most %d are possible", len(pattern), maxPattern)
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("the regular expression %q cannot be read: %w", pattern, err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("the regular expression %q cannot be compiled: %w", pattern, err)
	}
	if n := len(program.Inst); n > maxProgram {
		return nil, fmt.Errorf("the regular expression %q is too large: %d steps, at most %d are possible", pattern, n, maxProgram)
	}
	return regexp.Compile(`\A(?:` + pattern + `)\z`)
}

// Allow says whether a framework wants offers of an agent for a role.
func (s Set) Allow(role string, a *Agent) bool {
	groups, ok := s.roles[role]
	return !ok || slices.ContainsFunc(groups, func(g group) bool {
		return !slices.ContainsFunc(g, func(c constraint) bool { return !c.holds(c.pick(a)) })
	})
}

// Empty says whether everything is allowed.
func (s Set) Empty() bool { return len(s.roles) == 0 }
