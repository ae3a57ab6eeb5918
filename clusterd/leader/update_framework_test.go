package leader

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"google.golang.org/protobuf/proto"
)

// on wants agents of one host name only, for a role.
func on(role, host string) *scheduler.OfferConstraints {
	return &scheduler.OfferConstraints{RoleConstraints: map[string]*scheduler.OfferConstraints_RoleConstraints{role: {
		Groups: []*scheduler.OfferConstraints_RoleConstraints_Group{{AttributeConstraints: []*scheduler.AttributeConstraint{{
			Selector:  &scheduler.AttributeConstraint_Selector{PseudoattributeType: scheduler.AttributeConstraint_Selector_HOSTNAME.Enum()},
			Predicate: &scheduler.AttributeConstraint_Predicate{TextEquals: &scheduler.AttributeConstraint_Predicate_TextEquals{Value: proto.String(host)}},
		}}}},
	}}}
}

func (s *subscriber) become(info *mesosv1.FrameworkInfo, c *scheduler.OfferConstraints, suppressed ...string) error {
	info.Id = &mesosv1.FrameworkID{Value: proto.String(s.id)}
	return s.do(&scheduler.Call{Type: scheduler.Call_UPDATE_FRAMEWORK.Enum(), UpdateFramework: &scheduler.Call_UpdateFramework{
		FrameworkInfo: info, OfferConstraints: c, SuppressedRoles: suppressed,
	}})
}

// offersWithin collects what is offered in a while.
func (s *subscriber) offersWithin(d time.Duration) (out []*mesosv1.Offer) {
	time.Sleep(d)
	synctest.Wait()
	for {
		select {
		case e := <-s.events:
			s.passed = append(s.passed, e)
			continue
		default:
		}
		break
	}
	kept := s.passed[:0]
	for _, e := range s.passed {
		if e.GetType() == scheduler.Event_OFFERS {
			out = append(out, e.GetOffers().GetOffers()...)
		} else {
			kept = append(kept, e)
		}
	}
	s.passed = kept
	return out
}

func TestOfferConstraints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		for _, n := range []string{"n1", "n2"} {
			a := c.agent(n)
			defer a.conn.Close()
			a.attach(n)
		}
		info := func() *mesosv1.FrameworkInfo {
			return frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Role = proto.String("r") })
		}
		f := c.subscribeBy("", &scheduler.Call_Subscribe{FrameworkInfo: info(), OfferConstraints: on("r", "n2")})
		f.next(scheduler.Event_SUBSCRIBED)
		if got := f.offersWithin(5 * time.Second); len(got) != 1 || got[0].GetHostname() != "n2" {
			t.Errorf("offered %v", got)
		}
		if err := f.become(info(), nil); err != nil {
			t.Fatal(err)
		}
		if got := f.offersWithin(5 * time.Second); len(got) != 1 || got[0].GetHostname() != "n1" {
			t.Errorf("without constraints %v is offered beside n2", got)
		}
		bad := c.subscribeBy("", &scheduler.Call_Subscribe{FrameworkInfo: info(), OfferConstraints: on("other", "n2")})
		if m := bad.next(scheduler.Event_ERROR).GetError().GetMessage(); !strings.Contains(m, `role "other", which is not in the list of roles [r]`) {
			t.Error(m)
		}
	})
}

// Everything that a framework says of itself is replaced; it stays connected, its tasks and
// its offers for roles that stay too.
func TestUpdateFramework(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		for _, n := range []string{"n1", "n2"} {
			a := c.agent(n)
			defer a.conn.Close()
			a.attach(n)
		}
		named := func(name string, roles ...string) *mesosv1.FrameworkInfo {
			return frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Name, i.Roles = proto.String(name), roles }, multiRole)
		}
		f := c.subscribeAs("", named("old", "a", "b"), "b")
		f.next(scheduler.Event_SUBSCRIBED)
		first := f.offersWithin(5 * time.Second)
		if len(first) != 2 || first[0].GetAllocationInfo().GetRole() != "a" || first[1].GetAllocationInfo().GetRole() != "a" {
			t.Fatalf("%v", first)
		}
		f.launch(first[0], "t", nil)
		open := map[string]bool{first[1].GetId().GetValue(): true}
		for _, o := range f.offersWithin(5 * time.Second) { // what the launch left
			open[o.GetId().GetValue()] = true
		}
		before, _ := c.framework(f.id)
		if err := f.become(named("new", "b"), nil); err != nil {
			t.Fatal(err)
		}
		for range len(open) {
			id := f.next(scheduler.Event_RESCIND).GetRescind().GetOfferId().GetValue()
			if !open[id] {
				t.Errorf("rescinded %s", id)
			}
			delete(open, id)
		}
		for _, o := range f.offersWithin(5 * time.Second) {
			if o.GetAllocationInfo().GetRole() != "b" {
				t.Errorf("offered for %q", o.GetAllocationInfo().GetRole())
			}
		}
		after, _ := c.framework(f.id)
		if after.Name != "new" || fmt.Sprint(after.Roles) != "[b]" || !after.Connected || after.ReregisteredNS != before.ReregisteredNS || after.TaskCount() != 1 {
			t.Errorf("%+v", after)
		}
		if held := after.Allocated("a"); held.Milli(state.CPUs) == 0 {
			t.Error("the task of a role that was left holds nothing")
		}
		if err := f.become(named("new", "b", "c"), nil, "b", "c"); err != nil {
			t.Fatal(err)
		}
		for _, o := range f.offersWithin(5 * time.Second) {
			if err := f.do(&scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{OfferIds: []*mesosv1.OfferID{o.GetId()}}}); err != nil {
				t.Fatal(err)
			}
		}
		if got := f.offersWithin(time.Minute); len(got) > 0 {
			t.Errorf("all is suppressed, and %v is offered", got)
		}
	})
}

func TestWhatAnUpdateCannotChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		f := c.subscribeAs("p", frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Principal = proto.String("p") }))
		f.next(scheduler.Event_SUBSCRIBED)
		before, _ := c.framework(f.id)
		for says, change := range map[string]func(*mesosv1.FrameworkInfo){
			"'FrameworkInfo.principal' is unsupported":  func(i *mesosv1.FrameworkInfo) { i.Principal = proto.String("q") },
			"'FrameworkInfo.user' is unsupported":       func(i *mesosv1.FrameworkInfo) { i.User = proto.String("other") },
			"'FrameworkInfo.checkpoint' is unsupported": func(i *mesosv1.FrameworkInfo) { i.Checkpoint = proto.Bool(true) },
			"role \"a b\"": func(i *mesosv1.FrameworkInfo) { i.Role = proto.String("a b") },
		} {
			err := f.become(frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Principal = proto.String("p"); change(i) }), nil)
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", says, err)
			}
		}
		if err := f.become(frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Principal = proto.String("p") }), on("x", "n1")); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
		if after, _ := c.framework(f.id); string(after.Info) != string(before.Info) {
			t.Error("bad updates changed something")
		}
	})
}
