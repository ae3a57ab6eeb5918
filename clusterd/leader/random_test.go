package leader

import (
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
	d.now.id = d.id
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
	rng    *rand.Rand
	offers []*mesosv1.Offer
	tasks  map[string]mesosv1.TaskState
	named  int
	caps   []mesosv1.FrameworkInfo_Capability_Type
}

// info is what it says of itself, under one name or another.
func (f *careless) info() *mesosv1.FrameworkInfo {
	return frameworkInfo(func(i *mesosv1.FrameworkInfo) {
		i.Name, i.FailoverTimeout = proto.String(fmt.Sprint("f", f.rng.IntN(3))), proto.Float64(30)
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
	case o == nil:
		return
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
				Resources: []*mesosv1.Resource{scalar("cpus", float64(1+f.rng.IntN(20))/10), scalar("mem", 32)},
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
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playRandomly(t, seed) })
		})
	}
}

// operateRandomly lets an operator do what may be done at any moment.
func operateRandomly(t *testing.T, c *cell, rng *rand.Rand, agents []*diligent) {
	t.Helper()
	var err error
	switch rng.IntN(3) {
	case 0:
		err = c.l.UpdateWeights(t.Context(), []state.Weight{{Role: "*", Weight: float64(1 + rng.IntN(3))}})
	case 1:
		err = c.l.UpdateQuota(t.Context(), QuotaChange{Quotas: []state.RoleQuota{{Role: "x", Quota: cpus(int64(rng.IntN(3)), -1)}}})
	default:
		err = c.l.ActivateAgent(t.Context(), state.AgentID(agents[rng.IntN(len(agents))].id), rng.IntN(3) > 0)
	}
	if err != nil {
		t.Error(err)
	}
}

func playRandomly(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	c := newCell(t)
	var agents []*diligent
	for i := range 3 {
		d := &diligent{node: fmt.Sprint("n", i), holds: map[string]*held{}}
		d.connect(c)
		agents = append(agents, d)
	}
	caps := [][]mesosv1.FrameworkInfo_Capability_Type{nil, {partitioned}}
	var frameworks []*careless
	for _, cs := range caps {
		f := &careless{subscriber: c.subscribe("f", "", cs...), rng: rng, tasks: map[string]mesosv1.TaskState{}, caps: cs}
		f.next(scheduler.Event_SUBSCRIBED)
		frameworks = append(frameworks, f)
	}
	again := func(i int) {
		f := frameworks[i]
		f.hear()
		id := f.id
		f.subscriber, f.offers = c.subscribe("f", id, caps[i]...), nil
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
					if o.Agent == a.ID {
						promised, _ = promised.Plus(o.Resources)
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
	for _, d := range agents {
		if err := c.l.ActivateAgent(t.Context(), state.AgentID(d.id), true); err != nil {
			t.Error(err)
		}
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
	}
	settle()
	c.m.View(func(s *state.State) {
		if _, _, tasks := s.Counts(); tasks != 0 {
			t.Errorf("%d tasks are left", tasks)
		}
		for a := range s.Agents() {
			if used, _ := a.Total.Minus(a.Free()); len(used) > 0 {
				t.Errorf("%s still has %s in use", a.ID, used)
			}
		}
	})
	ran := 0
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
	if ran == 0 { // one of them may have no luck in a whole life
		t.Error("nothing ever ran")
	}
	for _, d := range agents {
		if len(d.holds) > 0 {
			t.Errorf("%s still holds %d containers", d.node, len(d.holds))
		}
		d.now.conn.Close()
	}
	c.end()
}
