package leader

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// colleague subscribes to the role "eng", with more capabilities than an engineer.
func (c *cell) colleague(name string, more ...mesosv1.FrameworkInfo_Capability_Type) *subscriber {
	c.t.Helper()
	info := &mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String(name), FailoverTimeout: proto.Float64(600), Roles: []string{"eng"}}
	for _, one := range append(more, mesosv1.FrameworkInfo_Capability_MULTI_ROLE, mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT) {
		info.Capabilities = append(info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: one.Enum()})
	}
	f := c.subscribeAs("", info)
	f.next(scheduler.Event_SUBSCRIBED)
	return f
}

// sharedVolume is v1 of role eng, for many.
func sharedVolume() *mesosv1.Resource {
	r := persistent(reserved(scalar("disk", 100), "eng"), "v1", "data")
	r.Shared = &mesosv1.Resource_SharedInfo{}
	return r
}

// holdsShared says whether an offer holds a shared volume.
func holdsShared(o *mesosv1.Offer) bool {
	for _, r := range o.GetResources() {
		if r.Shared != nil && r.GetDisk().GetPersistence().GetId() == "v1" {
			return true
		}
	}
	return false
}

// decline refuses an offer for some seconds.
func (s *subscriber) decline(o *mesosv1.Offer, seconds float64) {
	s.t.Helper()
	if err := s.do(&scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{
		OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: &seconds},
	}}); err != nil {
		s.t.Fatal(err)
	}
}

// sharedOffer gives offers back until one holds the shared volume: the rounds before it was
// made did not see it.
func (s *subscriber) sharedOffer() *mesosv1.Offer {
	s.t.Helper()
	for range 10 {
		o := s.offer()
		if holdsShared(o) {
			return o
		}
		s.decline(o, 0)
	}
	s.t.Fatal("the shared volume is not offered")
	return nil
}

// A shared volume is used by tasks of one ACCEPT, of one framework and of several, and is
// offered to many at a time; it ends with its last user only, and the offers of it with it.
func TestSharedVolumesAreForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.diskAgent()
		f := c.colleague("f", mesosv1.FrameworkInfo_Capability_SHARED_RESOURCES)
		o := f.offer()
		f.operate(o,
			named("r", reserveOp(reserved(scalar("disk", 300), "eng"))), named("c", createOp(sharedVolume())),
			taskOp(o, "t1", scalar("cpus", 1), scalar("mem", 64), sharedVolume()), taskOp(o, "t2", scalar("cpus", 1), scalar("mem", 64), sharedVolume()),
		)
		f.ackOperation(f.operation("r", mesosv1.OperationState_OPERATION_FINISHED))
		f.ackOperation(f.operation("c", mesosv1.OperationState_OPERATION_FINISHED))
		containers := map[string]string{}
		for range 2 {
			run := until(a, (*agentwire.FromMaster).GetRun)
			containers[taskIn(t, run)] = run.GetContainerId()
		}
		o = f.sharedOffer() // used by two, and offered
		f.operate(o, named("d", destroyOp(sharedVolume())))
		if st := f.operation("d", mesosv1.OperationState_OPERATION_ERROR); !strings.Contains(st.GetMessage(), "is used by 2 tasks") {
			t.Errorf("destroyed under its users: %s", st.GetMessage())
		}
		f.decline(f.offer(), 1e6)

		stranger := c.colleague("without the capability")
		o = stranger.offer()
		for _, r := range o.GetResources() {
			if r.Shared != nil {
				t.Errorf("it is shown %v", r)
			}
		}
		stranger.operate(o, named("n", createOp(func() *mesosv1.Resource {
			r := persistent(reserved(scalar("disk", 50), "eng"), "v2", "data")
			r.Shared = &mesosv1.Resource_SharedInfo{}
			return r
		}())))
		if st := stranger.operation("n", mesosv1.OperationState_OPERATION_ERROR); !strings.Contains(st.GetMessage(), "not SHARED_RESOURCES capable") {
			t.Errorf("created by who cannot have it: %s", st.GetMessage())
		}
		stranger.decline(stranger.offer(), 1e6)

		g := c.colleague("g", mesosv1.FrameworkInfo_Capability_SHARED_RESOURCES)
		first := g.offer()
		a.report(containers["t1"], 1, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		second := g.offer() // of what t1 had, while the first one stands
		if !holdsShared(first) || !holdsShared(second) {
			t.Fatalf("offered %v and %v", first.GetResources(), second.GetResources())
		}
		destroy := func() error {
			return c.l.ConvertResources(t.Context(), "", state.AgentID(a.id), destroyOp(sharedVolume()))
		}
		if err := destroy(); !errors.Is(err, ErrConflict) {
			t.Errorf("destroyed under t2: %v", err)
		}
		if time.Sleep(time.Second); len(g.events) != 0 {
			t.Error("offers were taken back for nothing")
		}
		a.report(containers["t2"], 1, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		if err := destroy(); err != nil {
			t.Fatal(err)
		}
		gone := map[string]bool{}
		for range 2 {
			gone[g.next(scheduler.Event_RESCIND).GetRescind().GetOfferId().GetValue()] = true
		}
		if !gone[first.GetId().GetValue()] || !gone[second.GetId().GetValue()] {
			t.Errorf("rescinded %v", gone)
		}
		if got, want := c.total(a), "cpus:4;disk:700;disk(eng):300;mem:1024;ports:[31000-31009]"; got != want {
			t.Errorf("left %s, want %s", got, want)
		}
	})
}

func taskIn(t *testing.T, run *agentwire.Run) string {
	t.Helper()
	info := &mesosv1.TaskInfo{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(run.GetTaskInfo(), info); err != nil {
		t.Fatal(err)
	}
	return info.GetTaskId().GetValue()
}

// A framework's DESTROY takes back the offers of others that hold the volume.
func TestDestroyRescindsOtherOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.diskAgent()
		f := c.colleague("f", mesosv1.FrameworkInfo_Capability_SHARED_RESOURCES)
		o := f.offer()
		f.operate(o, named("r", reserveOp(reserved(scalar("disk", 100), "eng"))), named("c", createOp(sharedVolume())), taskOp(o, "t", scalar("cpus", 1), scalar("mem", 64)))
		run := until(a, (*agentwire.FromMaster).GetRun)
		f.ackOperation(f.operation("r", mesosv1.OperationState_OPERATION_FINISHED))
		f.ackOperation(f.operation("c", mesosv1.OperationState_OPERATION_FINISHED))
		mine := f.sharedOffer()
		g := c.colleague("g", mesosv1.FrameworkInfo_Capability_SHARED_RESOURCES)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		others := g.offer()
		if !holdsShared(mine) || !holdsShared(others) {
			t.Fatalf("offered %v and %v", mine.GetResources(), others.GetResources())
		}
		f.operate(mine, named("d", destroyOp(sharedVolume())))
		f.operation("d", mesosv1.OperationState_OPERATION_FINISHED)
		if id := g.next(scheduler.Event_RESCIND).GetRescind().GetOfferId(); id.GetValue() != others.GetId().GetValue() {
			t.Errorf("rescinded %s", id.GetValue())
		}
		// What was promised of it before is no task's any more.
		if err := g.do(&scheduler.Call{Type: scheduler.Call_ACCEPT.Enum(), Accept: &scheduler.Call_Accept{
			OfferIds: []*mesosv1.OfferID{others.GetId()}, Operations: []*mesosv1.Offer_Operation{taskOp(others, "late", scalar("cpus", 1), sharedVolume())},
		}}); err != nil {
			t.Fatal(err)
		}
		g.update(mesosv1.TaskState_TASK_LOST)
	})
}

// What an agent has beyond what it has is for frameworks that give it back.
func TestRevocableResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.extra = state.Resources{state.Resource{Name: state.CPUs, Milli: 2000}.With(state.Details{Revocable: true})}
		a.attach("n1")
		rev := func(n float64) *mesosv1.Resource {
			r := scalar("cpus", n)
			r.Revocable = &mesosv1.Resource_RevocableInfo{}
			return r
		}
		cpus := func(o *mesosv1.Offer) (own, more float64) {
			for _, r := range o.GetResources() {
				if r.GetName() == "cpus" && r.Revocable != nil {
					more += r.GetScalar().GetValue()
				} else if r.GetName() == "cpus" {
					own += r.GetScalar().GetValue()
				}
			}
			return own, more
		}
		plain := c.colleague("plain")
		o := plain.offer()
		if own, more := cpus(o); own != 4 || more != 0 {
			t.Errorf("without the capability it is offered %v and %v", own, more)
		}
		f := c.colleague("f", mesosv1.FrameworkInfo_Capability_REVOCABLE_RESOURCES)
		o2 := f.offer()
		if own, more := cpus(o2); own != 0 || more != 2 {
			t.Errorf("with the capability it is offered %v and %v", own, more)
		}
		plain.operate(o)
		time.Sleep(time.Second)
		f.operate(o2, taskOp(o2, "mixed", scalar("cpus", 1), rev(1)))
		if st := f.update(mesosv1.TaskState_TASK_ERROR); !strings.Contains(st.GetMessage(), "both revocable and non-revocable cpus") {
			t.Errorf("a task of both: %s", st.GetMessage())
		}
		o2 = f.offer()
		for _, more := cpus(o2); more == 0; _, more = cpus(o2) {
			o2 = f.offer()
		}
		f.operate(o2, taskOp(o2, "t", rev(1.5)), named("r", reserveOp(reserved(rev(0.5), "eng"))))
		until(a, (*agentwire.FromMaster).GetRun)
		if st := f.operation("r", mesosv1.OperationState_OPERATION_ERROR); !strings.Contains(st.GetMessage(), "revocable") {
			t.Errorf("reserved what may be taken back: %s", st.GetMessage())
		}
		c.m.View(func(s *state.State) {
			agent, _ := s.Agent(state.AgentID(a.id))
			if got := agent.Used().String(); got != "cpus{rev}:1.5" {
				t.Errorf("used %s", got)
			}
			if has := Consumed(s, map[string]state.Quota{"eng": {Limits: map[string]int64{state.CPUs: 1}}}); has["eng"][state.CPUs] != 0 {
				t.Errorf("it counts in the quota: %v", has)
			}
		})
		// 4 cpus are there for guarantees, and not 6.
		for _, n := range []int64{4, 5} {
			err := c.l.UpdateQuota(t.Context(), QuotaChange{Quotas: []state.RoleQuota{{Role: "eng", Quota: state.Quota{Guarantees: map[string]int64{state.CPUs: n * 1000}}}}})
			if (err != nil) != (n > 4) {
				t.Errorf("a guarantee of %d cpus: %v", n, err)
			}
		}
	})
}

// Who is next is as the configuration says: by shares always the same one where nobody takes
// anything, by lot one after the other.
func TestSortingIsConfigured(t *testing.T) {
	for _, random := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCell(t)
			c.end()
			c.configure = func(cfg *Config) { cfg.Sorting.RandomFrameworks = random }
			c.lead()
			defer func() { c.end() }()
			var all []*subscriber
			for range 6 {
				f := c.subscribe("f", "")
				f.next(scheduler.Event_SUBSCRIBED)
				all = append(all, f)
			}
			c.agent("n1").attach("n1")
			offered := map[string]bool{}
			for range 30 {
				time.Sleep(2 * time.Second)
				synctest.Wait()
				for _, f := range all {
					if len(f.events) > 0 {
						offered[f.id] = true
						f.decline(f.offer(), 0)
					}
				}
			}
			if n := len(offered); random && n < 4 || !random && n != 1 {
				t.Errorf("random %v: %d of 6 were offered something", random, n)
			}
		})
	}
}
