// Package constraints is which agents a framework wants offers from, by role: the offer
// constraints of the scheduler API, compiled once and asked for every agent.
//
//	Compile(offer_constraints, roles) → Set;  Set.Allow(role, agent) → bool
//
// A role's groups are alternatives, the constraints inside a group must all hold. Only
// text can be compared: an attribute of another type satisfies every comparison, so that
// clients may learn to compare those later. Regular expressions match the whole text.
//
// Invariants: what Compile accepted is bounded (constraints, size of each expression and of
// all together), and Allow takes time in proportion to the text it looks at. A constraint
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

// Bounds of one framework's constraints. The size of a program is Mesos' default for RE2;
// Mesos bounds the memory of one by 4096 bytes of RE2's own counting, and nothing else.
const (
	maxPattern  = 4096    // bytes of a regular expression
	maxProgram  = 100     // its steps
	maxRunes    = 2048    // ends of ranges in its classes of characters: \pL has 1,318
	maxAllRunes = 100_000 // the same, of all expressions of a framework
	maxInAll    = 10_000  // constraints of a framework
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
	left := &budget{maxInAll, maxAllRunes}
	for role, rc := range c.GetRoleConstraints() {
		if !slices.Contains(roles, role) {
			return Set{}, fmt.Errorf("offer constraints are set for role %q, which is not in the list of roles %v", role, roles)
		}
		groups := rc.GetGroups()
		if len(groups) == 0 || len(groups) > maxInAll {
			return Set{}, fmt.Errorf("the offer constraints of role %q have %d groups; 1 to %d are possible", role, len(groups), maxInAll)
		}
		if out.roles == nil {
			out.roles = map[string][]group{}
		}
		for at, g := range groups {
			compiled, err := compileGroup(g.GetAttributeConstraints(), left)
			if err != nil {
				return Set{}, fmt.Errorf("the offer constraints of role %q, group %d: %w", role, at, err)
			}
			out.roles[role] = append(out.roles[role], compiled)
		}
	}
	return out, nil
}

// budget is what the constraints of a framework may still be.
type budget struct{ constraints, runes int }

func compileGroup(list []*scheduler.AttributeConstraint, left *budget) (group, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("it has no constraints")
	}
	if left.constraints -= len(list); left.constraints < 0 {
		return nil, fmt.Errorf("there are more than %d constraints in all", maxInAll)
	}
	var out group
	for at, c := range list {
		one, err := compile(c, left)
		if err != nil {
			return nil, fmt.Errorf("constraint %d: %w", at, err)
		}
		out = append(out, one)
	}
	return out, nil
}

func compile(c *scheduler.AttributeConstraint, left *budget) (out constraint, err error) {
	if out.pick, err = selector(c.GetSelector()); err != nil {
		return out, err
	}
	out.holds, err = predicate(c.GetPredicate(), left)
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

func predicate(p *scheduler.AttributeConstraint_Predicate, left *budget) (func(string, bool, bool) bool, error) {
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
		re, err := expression(p.GetTextMatches().GetRegex(), left)
		return func(text string, isText, there bool) bool { return there && (!isText || re.MatchString(text)) }, err
	case p.GetTextNotMatches() != nil:
		re, err := expression(p.GetTextNotMatches().GetRegex(), left)
		return func(text string, isText, there bool) bool { return !there || !isText || !re.MatchString(text) }, err
	}
	return nil, fmt.Errorf("it has no predicate that is known here")
}

// expression compiles a pattern that has to match the whole text.
func expression(pattern string, left *budget) (*regexp.Regexp, error) {
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
	runes := 0
	for i := range program.Inst {
		runes += len(program.Inst[i].Rune)
	}
	if left.runes -= runes; runes > maxRunes || left.runes < 0 {
		return nil, fmt.Errorf("the regular expression %q names too many characters: %d ranges", pattern, runes/2)
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
