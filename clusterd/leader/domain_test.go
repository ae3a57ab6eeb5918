package leader

import (
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

func domainOf(region, zone string) *mesosv1.DomainInfo {
	return &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
		Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: proto.String(region)},
		Zone:   &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: proto.String(zone)},
	}}
}

// agentIn attaches an agent that stands somewhere.
func (c *cell) agentIn(node string, domain *mesosv1.DomainInfo) *played {
	a := c.agent(node)
	a.domain = domain
	a.attach(node)
	return a
}

// Agents of another region are offered to frameworks only that know what a region is; who
// does not say where it stands is near.
func TestFarAgentsAreForRegionAwareFrameworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		c.end()
		c.domain = domainOf("fra", "a")
		c.lead()
		defer func() { c.end() }()
		far, near, unsaid := c.agentIn("n1", domainOf("muc", "a")), c.agentIn("n2", domainOf("fra", "b")), c.agentIn("n3", nil)
		f := c.subscribe("near", "")
		if m := f.next(scheduler.Event_SUBSCRIBED).GetSubscribed().GetMasterInfo(); m.GetDomain().GetFaultDomain().GetRegion().GetName() != "fra" {
			t.Errorf("the master says it stands in %v", m.GetDomain())
		}
		got := map[string]*mesosv1.Offer{}
		for len(got) < 2 {
			for _, o := range f.next(scheduler.Event_OFFERS).GetOffers().GetOffers() {
				got[o.GetAgentId().GetValue()] = o
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got[near.id] == nil || got[unsaid.id] == nil || len(f.events) > 0 {
			t.Errorf("offered %v, and %d events more", got, len(f.events))
		}
		if d := got[near.id].GetDomain().GetFaultDomain(); d.GetRegion().GetName() != "fra" || d.GetZone().GetName() != "b" {
			t.Errorf("the offer says %v", d)
		}
		g := c.subscribe("anywhere", "", mesosv1.FrameworkInfo_Capability_REGION_AWARE)
		g.next(scheduler.Event_SUBSCRIBED)
		if o := g.offer(); o.GetAgentId().GetValue() != far.id || o.GetDomain().GetFaultDomain().GetRegion().GetName() != "muc" {
			t.Errorf("offered %v", o)
		}
	})
}

// A master that says nothing of where it stands knows no other regions.
func TestWithoutADomainNobodyIsFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer func() { c.end() }()
		a := c.agentIn("n1", domainOf("muc", "a"))
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		if o := f.offer(); o.GetAgentId().GetValue() != a.id {
			t.Errorf("offered %v", o)
		}
	})
}

// Constraints compare the true region and zone.
func TestConstraintsSeeTheDomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		c.end()
		c.domain = domainOf("fra", "a")
		c.lead()
		defer func() { c.end() }()
		a, b := c.agentIn("n1", domainOf("fra", "a")), c.agentIn("n2", domainOf("fra", "b"))
		for want, name := range map[string]string{a.id: "a", b.id: "b"} {
			f := c.subscribeBy("", &scheduler.Call_Subscribe{
				FrameworkInfo: &mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String("in " + name)},
				OfferConstraints: &scheduler.OfferConstraints{RoleConstraints: map[string]*scheduler.OfferConstraints_RoleConstraints{"*": {
					Groups: []*scheduler.OfferConstraints_RoleConstraints_Group{{AttributeConstraints: []*scheduler.AttributeConstraint{
						equals(scheduler.AttributeConstraint_Selector_REGION, "fra"), equals(scheduler.AttributeConstraint_Selector_ZONE, name),
					}}},
				}}},
			})
			f.next(scheduler.Event_SUBSCRIBED)
			if o := f.offer(); o.GetAgentId().GetValue() != want {
				t.Errorf("who wants zone %s is offered %s of %v", name, o.GetAgentId().GetValue(), o.GetDomain())
			}
		}
	})
}

func equals(what scheduler.AttributeConstraint_Selector_PseudoattributeType, text string) *scheduler.AttributeConstraint {
	return &scheduler.AttributeConstraint{
		Selector:  &scheduler.AttributeConstraint_Selector{PseudoattributeType: what.Enum()},
		Predicate: &scheduler.AttributeConstraint_Predicate{TextEquals: &scheduler.AttributeConstraint_Predicate_TextEquals{Value: proto.String(text)}},
	}
}

// What was refused of an agent counts no more once it stands elsewhere; attached again as it
// was, it counts.
func TestFiltersEndWithTheRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		c.end()
		c.domain = domainOf("fra", "a")
		c.lead()
		defer func() { c.end() }()
		a := c.agentIn("n1", domainOf("fra", "a"))
		f := c.subscribe("f", "", mesosv1.FrameworkInfo_Capability_REGION_AWARE)
		f.next(scheduler.Event_SUBSCRIBED)
		o := f.offer()
		if err := f.do(&scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{
			OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(3600)},
		}}); err != nil {
			t.Fatal(err)
		}
		for _, region := range []string{"fra", "muc"} {
			a.domain = domainOf(region, "a")
			a.sendAttach("n1")
			until(a, (*agentwire.FromMaster).GetAttached)
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := len(f.events); (n > 0) != (region == "muc") {
				t.Errorf("attached again in %s: %d events", region, n)
			}
		}
		if o := f.offer(); o.GetDomain().GetFaultDomain().GetRegion().GetName() != "muc" {
			t.Errorf("offered of %v", o.GetDomain())
		}
	})
}
