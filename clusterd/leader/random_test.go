package leader

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// diligent is an agent that does what it is told; what it holds outlives its connections
// and its leaders.
type diligent struct {
	node, id string
	holds    map[string]*held
	now      *played
}

// held is a container: its updates, of which the first is not acknowledged yet.
type held struct {
	updates []mesosv1.TaskState
	uuid    byte
	ended   bool
}

func (d *diligent) connect(c *cell) {
	d.now = c.agent(d.node)
	d.now.id, d.now.disk = d.id, 1000
	d.now.extra = state.Resources{state.Resource{Name: state.CPUs, Milli: 2000}.With(state.Details{Revocable: true})}
	var list []*agentwire.Held
	for id, h := range d.holds {
		list = append(list, &agentwire.Held{ContainerId: id, Terminal: h.ended})
	}
	d.now.attach(d.node, list...)
	d.id = d.now.id
	for id := range d.holds {
		d.report(id)
	}
}

func (d *diligent) report(id string) {
	if h := d.holds[id]; h != nil && len(h.updates) > 0 {
		d.now.report(id, h.uuid, h.updates[0])
	}
}

func (d *diligent) add(id string, s mesosv1.TaskState) {
	h := d.holds[id]
	if h == nil || h.ended {
		return
	}
	h.ended = s != mesosv1.TaskState_TASK_RUNNING
	if h.updates = append(h.updates, s); len(h.updates) == 1 {
		h.uuid++
		d.report(id)
	}
}

// hear does what has come; true: something had.
func (d *diligent) hear() (heard bool) {
	for {
		var m *agentwire.FromMaster
		select {
		case m = <-d.now.in:
		default:
			return heard
		}
		if m == nil {
			return heard
		}
		heard = true
		switch b := m.GetBody().(type) {
		case *agentwire.FromMaster_Run:
			if d.holds[b.Run.GetContainerId()] == nil {
				d.holds[b.Run.GetContainerId()] = &held{}
				d.add(b.Run.GetContainerId(), mesosv1.TaskState_TASK_RUNNING)
			}
		case *agentwire.FromMaster_Drain:
			for id := range d.holds {
				if b.Drain.GetOn() {
					d.add(id, mesosv1.TaskState_TASK_KILLED)
				}
			}
		case *agentwire.FromMaster_Kill:
			d.add(b.Kill.GetContainerId(), mesosv1.TaskState_TASK_KILLED)
		case *agentwire.FromMaster_Acknowledge:
			id := b.Acknowledge.GetContainerId()
			if h := d.holds[id]; h != nil && len(h.updates) > 0 && b.Acknowledge.GetUuid()[0] == h.uuid {
				h.updates = h.updates[1:]
				h.uuid++
				d.report(id)
			}
		case *agentwire.FromMaster_Forget:
			for _, id := range b.Forget.GetContainerIds() {
				delete(d.holds, id)
			}
			d.now.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Forgotten{Forgotten: &agentwire.Forgotten{ContainerIds: b.Forget.GetContainerIds()}}})
		}
	}
}

// careless is a framework that does anything, in any order, also twice.
type careless struct {
	*subscriber
	rng     *rand.Rand
	offers  []*mesosv1.Offer
	inverse []*mesosv1.OfferID
	tasks   map[string]mesosv1.TaskState
	named   int
	done    int // operations that it heard were done
	shared  int // tasks that it launched on a shared volume
	caps    []mesosv1.FrameworkInfo_Capability_Type
}

// keeps says whether it knows reservations: then its role is x.
func (f *careless) keeps() bool {
	return slices.Contains(f.caps, mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT)
}

// info is what it says of itself, under one name or another.
func (f *careless) info() *mesosv1.FrameworkInfo {
	return frameworkInfo(func(i *mesosv1.FrameworkInfo) {
		i.Name, i.FailoverTimeout = proto.String(fmt.Sprint("f", f.rng.IntN(3))), proto.Float64(30)
		if f.keeps() {
			i.Role, i.Roles = nil, []string{"x"}
		}
	}, f.caps...)
}

func (f *careless) hear() (heard bool) {
	for {
		var e *scheduler.Event
		select {
		case e = <-f.events:
		default:
			return heard
		}
		if e == nil {
			return heard
		}
		heard = true
		switch e.GetType() {
		case scheduler.Event_OFFERS:
			f.offers = append(f.offers, e.GetOffers().GetOffers()...)
		case scheduler.Event_INVERSE_OFFERS:
			for _, o := range e.GetInverseOffers().GetInverseOffers() {
				f.inverse = append(f.inverse, o.GetId())
			}
		case scheduler.Event_UPDATE_OPERATION_STATUS:
			st := e.GetUpdateOperationStatus().GetStatus()
			if st.GetState() == mesosv1.OperationState_OPERATION_FINISHED {
				f.done++
			}
			if len(st.GetUuid().GetValue()) > 0 && f.rng.IntN(4) > 0 {
				f.ackOperation(st)
			}
		case scheduler.Event_UPDATE:
			st := e.GetUpdate().GetStatus()
			if _, mine := f.tasks[st.GetTaskId().GetValue()]; !mine {
				f.t.Errorf("an update of the stranger %s", st.GetTaskId().GetValue())
			}
			f.tasks[st.GetTaskId().GetValue()] = st.GetState()
			if len(st.GetUuid()) > 0 && f.rng.IntN(4) > 0 {
				f.ack(st)
			}
		}
	}
}

func anyOf[V any](rng *rand.Rand, m map[string]V) string {
	return slices.Sorted(maps.Keys(m))[rng.IntN(len(m))]
}

// act makes one call.
func (f *careless) act() {
	pick := func() (o *mesosv1.Offer) {
		if len(f.offers) > 0 {
			o = f.offers[f.rng.IntN(len(f.offers))]
		}
		return o
	}
	var call *scheduler.Call
	switch o := pick(); {
	case f.rng.IntN(6) == 0:
		call = &scheduler.Call{Type: scheduler.Call_REVIVE.Enum()}
	case f.rng.IntN(4) == 0 && len(f.tasks) > 0:
		id := anyOf(f.rng, f.tasks)
		call = &scheduler.Call{Type: scheduler.Call_KILL.Enum(), Kill: &scheduler.Call_Kill{TaskId: &mesosv1.TaskID{Value: &id}}}
	case f.rng.IntN(20) == 0:
		info := f.info()
		info.Id = &mesosv1.FrameworkID{Value: &f.id}
		call = &scheduler.Call{Type: scheduler.Call_UPDATE_FRAMEWORK.Enum(), UpdateFramework: &scheduler.Call_UpdateFramework{FrameworkInfo: info}}
	case f.rng.IntN(5) == 0:
		call = &scheduler.Call{Type: scheduler.Call_RECONCILE.Enum(), Reconcile: &scheduler.Call_Reconcile{}}
	case f.rng.IntN(6) == 0 && len(f.inverse) > 0:
		id := f.inverse[f.rng.IntN(len(f.inverse))]
		call = &scheduler.Call{Type: scheduler.Call_ACCEPT_INVERSE_OFFERS.Enum(), AcceptInverseOffers: &scheduler.Call_AcceptInverseOffers{InverseOfferIds: []*mesosv1.OfferID{id}}}
		if f.rng.IntN(2) == 0 {
			call = &scheduler.Call{Type: scheduler.Call_DECLINE_INVERSE_OFFERS.Enum(), DeclineInverseOffers: &scheduler.Call_DeclineInverseOffers{InverseOfferIds: []*mesosv1.OfferID{id, id}}}
		}
	case o == nil:
		return
	case f.keeps() && f.rng.IntN(2) == 0:
		call = &scheduler.Call{Type: scheduler.Call_ACCEPT.Enum(), Accept: &scheduler.Call_Accept{
			OfferIds: []*mesosv1.OfferID{o.GetId()}, Operations: f.conversions(o), Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)},
		}}
	case f.rng.IntN(4) == 0:
		call = &scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(1)}}}
	default:
		accept := &scheduler.Call_Accept{OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)}}
		for range 1 + f.rng.IntN(3) {
			if f.rng.IntN(5) > 0 { // else the same name once more
				f.named++
			}
			id := fmt.Sprint("t", f.named)
			if _, used := f.tasks[id]; !used {
				f.tasks[id] = mesosv1.TaskState_TASK_STAGING
			}
			accept.Operations = append(accept.Operations, &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{{
				Name: &id, TaskId: &mesosv1.TaskID{Value: &id}, AgentId: o.GetAgentId(), Command: &mesosv1.CommandInfo{},
				Resources: f.asks(o),
			}}}})
		}
		call = &scheduler.Call{Type: scheduler.Call_ACCEPT.Enum(), Accept: accept}
	}
	if err := f.do(call); err != nil {
		f.t.Errorf("%s: %v", call.GetType(), err)
	}
}

// Random calls, agents that lose their connections, leaders that change: nothing is
// promised or used twice at any moment, and when everything has ended and was said,
// nothing is left.
func TestRandomFrameworks(t *testing.T) {
	ran, done, shared := 0, 0, 0
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tasks, operations, sharing := playRandomly(t, seed)
				ran, done, shared = ran+tasks, done+operations, shared+sharing
			})
		})
	}
	if ran == 0 || done == 0 || shared == 0 { // a single life may be one without any luck
		t.Errorf("in all lives %d tasks finished, %d operations were done and %d tasks were launched on a shared volume", ran, done, shared)
	}
	t.Logf("%d tasks finished, %d operations were done, %d tasks were launched on a shared volume", ran, done, shared)
}

// operateRandomly lets an operator do what may be done at any moment.
func operateRandomly(t *testing.T, c *cell, rng *rand.Rand, agents []*diligent) {
	t.Helper()
	var err error
	id := state.AgentID(agents[rng.IntN(len(agents))].id)
	switch rng.IntN(7) {
	case 3:
		err = c.l.ConvertResources(t.Context(), "", id, reserveOp(reserved(scalar("cpus", float64(1+rng.IntN(4))), "y")))
	case 4:
		err = c.l.ConvertResources(t.Context(), "", id, unreserveOp(reserved(scalar("cpus", float64(1+rng.IntN(4))), []string{"x", "y"}[rng.IntN(2)])))
	case 5:
		err = c.l.DrainAgent(t.Context(), id, time.Second, false)
	case 6:
		var windows []state.Window
		if rng.IntN(3) > 0 {
			windows = []state.Window{{Machines: []state.MachineID{{Hostname: agents[rng.IntN(len(agents))].node}}, StartNS: int64(rng.IntN(3)), Duration: -1}}
		}
		err = c.l.UpdateSchedule(t.Context(), windows)
	case 0:
		err = c.l.UpdateWeights(t.Context(), []state.Weight{{Role: "*", Weight: float64(1 + rng.IntN(3))}})
	case 1:
		err = c.l.UpdateQuota(t.Context(), QuotaChange{Quotas: []state.RoleQuota{{Role: "x", Quota: cpus(int64(rng.IntN(3)), -1)}}})
	default:
		err = c.l.ActivateAgent(t.Context(), id, rng.IntN(3) > 0)
	}
	if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrInvalid) { // as much is not free; it is drained
		t.Error(err)
	}
}

// playRandomly is one life; it says how many tasks finished in it, how many operations were
// done, and how many tasks were launched on a shared volume.
func playRandomly(t *testing.T, seed uint64) (ran, done, shared int) {
	rng := rand.New(rand.NewPCG(seed, 3))
	c := newCell(t)
	var agents []*diligent
	for i := range 3 {
		d := &diligent{node: fmt.Sprint("n", i), holds: map[string]*held{}}
		d.connect(c)
		agents = append(agents, d)
	}
	caps := [][]mesosv1.FrameworkInfo_Capability_Type{
		nil, {partitioned}, {
			partitioned, mesosv1.FrameworkInfo_Capability_MULTI_ROLE, mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT,
			mesosv1.FrameworkInfo_Capability_SHARED_RESOURCES, mesosv1.FrameworkInfo_Capability_REVOCABLE_RESOURCES,
		},
	}
	var frameworks []*careless
	for _, cs := range caps {
		f := &careless{rng: rng, tasks: map[string]mesosv1.TaskState{}, caps: cs}
		f.subscriber = c.subscribeAs("", f.info())
		f.next(scheduler.Event_SUBSCRIBED)
		frameworks = append(frameworks, f)
	}
	again := func(i int) {
		f := frameworks[i]
		f.hear()
		info := f.info()
		info.Id = &mesosv1.FrameworkID{Value: proto.String(f.id)}
		f.subscriber, f.offers, f.inverse = c.subscribeAs("", info), nil, nil
		f.next(scheduler.Event_SUBSCRIBED)
	}
	settle := func() {
		for heard := true; heard; {
			synctest.Wait()
			heard = false
			for _, d := range agents {
				heard = d.hear() || heard
			}
			for _, f := range frameworks {
				heard = f.hear() || heard
			}
		}
	}
	invariants := func(step int) {
		t.Helper()
		if err := c.l.View(t.Context(), func(s *state.State, live Live) {
			for a := range s.Agents() {
				promised, _ := a.Total.Minus(a.Free())
				for _, o := range live.Offers {
					if o.Agent != a.ID {
						continue
					}
					promised, _ = promised.Plus(o.Resources.Private())
					for _, r := range o.Resources { // of what is shared there only has to be one
						if r.Shared() && !a.Total.Contains(state.Resources{r}) {
							t.Fatalf("step %d: %s is offered and %s has %s", step, o.Resources, a.ID, a.Total)
						}
					}
				}
				if !a.Total.Contains(promised) {
					t.Fatalf("step %d: of %s's %s are used or offered %s", step, a.ID, a.Total, promised)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	for step := range 400 {
		switch n := rng.IntN(40); {
		case n == 0:
			d := agents[rng.IntN(len(agents))]
			d.now.conn.Close()
			synctest.Wait()
			d.connect(c)
		case n == 1:
			again(rng.IntN(len(frameworks)))
		case n == 2:
			c.end()
			for _, d := range agents {
				d.now.conn.Close()
			}
			synctest.Wait()
			c.lead()
			for _, d := range agents {
				d.connect(c)
			}
			for i := range frameworks {
				again(i)
			}
		case n == 3:
			operateRandomly(t, c, rng, agents)
		case n < 7:
			if d := agents[rng.IntN(len(agents))]; len(d.holds) > 0 {
				d.add(anyOf(rng, d.holds), mesosv1.TaskState_TASK_FINISHED)
			}
		case n < 10:
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
		default:
			frameworks[rng.IntN(len(frameworks))].act()
		}
		settle()
		invariants(step)
	}
	// Everything is ended, and every update is acknowledged in the end.
	for _, d := range agents {
		for id := range d.holds {
			d.add(id, mesosv1.TaskState_TASK_FINISHED)
		}
	}
	for range 200 {
		settle()
		time.Sleep(10 * time.Second)
		for _, d := range agents { // as soon as it is drained
			if err := c.l.ActivateAgent(t.Context(), state.AgentID(d.id), true); err != nil && !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
		}
	}
	settle()
	c.m.View(func(s *state.State) {
		if _, _, tasks := s.Counts(); tasks != 0 {
			t.Errorf("%d tasks are left", tasks)
		}
		for a := range s.Agents() {
			if len(a.Used()) > 0 {
				t.Errorf("%s still has %s in use", a.ID, a.Used())
			}
			if is, err := a.Total.Bases(); err != nil || is.String() != "cpus:4;cpus{rev}:2;disk:1000;mem:1024;ports:[31000-31009]" || a.Drain != nil || a.Deactivated {
				t.Errorf("%s offers %s in the end, drained %v", a.ID, a.Total, a.Drain)
			}
		}
	})
	for i, f := range frameworks {
		ends := map[mesosv1.TaskState]int{}
		for id, s := range f.tasks {
			ends[s]++
			switch s {
			case mesosv1.TaskState_TASK_STAGING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_UNREACHABLE:
				t.Errorf("framework %d heard last of %s that it is %s", i, id, s)
			}
		}
		t.Logf("framework %d: %v", i, ends)
		ran += ends[mesosv1.TaskState_TASK_FINISHED]
	}
	for _, d := range agents {
		if len(d.holds) > 0 {
			t.Errorf("%s still holds %d containers", d.node, len(d.holds))
		}
		d.now.conn.Close()
	}
	c.end()
	if left := len(c.l.launching) + len(c.l.launchingBy) + len(c.l.converting) + len(c.l.starting) + len(c.l.operations); left > 0 {
		t.Errorf("left under way: %v %v %v %v %v", c.l.launching, c.l.launchingBy, c.l.converting, c.l.starting, c.l.operations)
	}
	return ran, frameworks[2].done, frameworks[2].shared
}
