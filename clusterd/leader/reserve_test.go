package leader

import (
	"errors"
	"strconv"
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

// reserved is a resource under reservations that somebody made, outermost first.
func reserved(r *mesosv1.Resource, roles ...string) *mesosv1.Resource {
	for _, role := range roles {
		r.Reservations = append(r.Reservations, &mesosv1.Resource_ReservationInfo{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String(role)})
	}
	return r
}

// labelled gives a reservation labels.
func labelled(r *mesosv1.Resource, key string, n int) *mesosv1.Resource {
	l := &mesosv1.Labels{}
	for i := range n {
		l.Labels = append(l.Labels, &mesosv1.Label{Key: proto.String(key + strconv.Itoa(i))})
	}
	r.Reservations[len(r.Reservations)-1].Labels = l
	return r
}

// persistent makes a resource a persistent volume.
func persistent(r *mesosv1.Resource, id, path string) *mesosv1.Resource {
	r.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String(id)},
		Volume:      &mesosv1.Volume{ContainerPath: proto.String(path), Mode: mesosv1.Volume_RW.Enum()},
	}
	return r
}

func named(id string, op *mesosv1.Offer_Operation) *mesosv1.Offer_Operation {
	op.Id = &mesosv1.OperationID{Value: proto.String(id)}
	return op
}

func reserveOp(rs ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{Resources: rs}}
}

func unreserveOp(rs ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_UNRESERVE.Enum(), Unreserve: &mesosv1.Offer_Operation_Unreserve{Resources: rs}}
}

func createOp(rs ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_CREATE.Enum(), Create: &mesosv1.Offer_Operation_Create{Volumes: rs}}
}

func destroyOp(rs ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_DESTROY.Enum(), Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: rs}}
}

func growOp(volume, addition *mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_GROW_VOLUME.Enum(), GrowVolume: &mesosv1.Offer_Operation_GrowVolume{Volume: volume, Addition: addition}}
}

func shrinkOp(volume *mesosv1.Resource, mb float64) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{
		Type:         mesosv1.Offer_Operation_SHRINK_VOLUME.Enum(),
		ShrinkVolume: &mesosv1.Offer_Operation_ShrinkVolume{Volume: volume, Subtract: &mesosv1.Value_Scalar{Value: &mb}},
	}
}

func taskOp(offer *mesosv1.Offer, id string, rs ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{{
		Name: proto.String(id), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: offer.GetAgentId(),
		Command: &mesosv1.CommandInfo{Value: proto.String("true")}, Resources: rs,
	}}}}
}

// operate accepts an offer with operations.
func (s *subscriber) operate(offer *mesosv1.Offer, ops ...*mesosv1.Offer_Operation) {
	s.t.Helper()
	if err := s.do(&scheduler.Call{Type: scheduler.Call_ACCEPT.Enum(), Accept: &scheduler.Call_Accept{
		OfferIds: []*mesosv1.OfferID{offer.GetId()}, Operations: ops, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)},
	}}); err != nil {
		s.t.Fatal(err)
	}
}

// whole declines offers until one holds all that the agent offers.
func (s *subscriber) whole(c *cell, a *played) (o *mesosv1.Offer, volume *mesosv1.Resource) {
	s.t.Helper()
	for {
		o = s.offer()
		if rs, err := fromWire(o.GetResources()); err == nil && rs.String() == c.total(a) {
			break
		}
		s.operate(o)
	}
	for _, r := range o.GetResources() {
		if r.GetDisk().GetPersistence() != nil {
			volume = r
		}
	}
	return o, volume
}

// operation waits for what is said of one.
func (s *subscriber) operation(id string, want mesosv1.OperationState) *mesosv1.OperationStatus {
	s.t.Helper()
	st := s.next(scheduler.Event_UPDATE_OPERATION_STATUS).GetUpdateOperationStatus().GetStatus()
	if st.GetOperationId().GetValue() != id || st.GetState() != want {
		s.t.Fatalf("operation %s is %s (%s), want %s %s", st.GetOperationId().GetValue(), st.GetState(), st.GetMessage(), id, want)
	}
	return st
}

func (s *subscriber) ackOperation(st *mesosv1.OperationStatus) {
	s.t.Helper()
	if err := s.do(&scheduler.Call{Type: scheduler.Call_ACKNOWLEDGE_OPERATION_STATUS.Enum(), AcknowledgeOperationStatus: &scheduler.Call_AcknowledgeOperationStatus{
		AgentId: st.GetAgentId(), Uuid: st.GetUuid().GetValue(), OperationId: st.GetOperationId(),
	}}); err != nil {
		s.t.Fatal(err)
	}
}

// total is what an agent offers in all, by the state.
func (c *cell) total(a *played) string {
	var out string
	c.m.View(func(s *state.State) {
		agent, ok := s.Agent(state.AgentID(a.id))
		if !ok {
			c.t.Fatal("the agent is not known")
		}
		out = agent.Total.String()
	})
	return out
}

// engineer subscribes to the role "eng" with all that reservations need.
func (c *cell) engineer(id string) *subscriber {
	info := &mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String("f"), FailoverTimeout: proto.Float64(600), Roles: []string{"eng"}}
	for _, cap := range []mesosv1.FrameworkInfo_Capability_Type{mesosv1.FrameworkInfo_Capability_MULTI_ROLE, mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT} {
		info.Capabilities = append(info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: cap.Enum()})
	}
	if id != "" {
		info.Id = &mesosv1.FrameworkID{Value: &id}
	}
	f := c.subscribeAs("", info)
	f.next(scheduler.Event_SUBSCRIBED)
	return f
}

// diskAgent is an agent with disk.
func (c *cell) diskAgent() *played {
	a := c.agent("n1")
	a.disk = 1000
	a.attach("n1")
	return a
}

// One ACCEPT reserves, makes a volume of what it reserved and launches a task on it; each
// operation with an id is answered until it is acknowledged; the volume outlives the task.
func TestReserveCreateLaunchInOneAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.diskAgent()
		defer a.conn.Close()
		if m := until(a, (*agentwire.FromMaster).GetMade); len(m.GetResources()) != 0 {
			t.Fatalf("a new agent was told of %d made resources", len(m.GetResources()))
		}
		f := c.engineer("")
		o := f.offer()
		volume := func() *mesosv1.Resource { return persistent(reserved(scalar("disk", 100), "eng"), "v1", "data") }
		f.operate(o,
			named("r1", reserveOp(reserved(scalar("cpus", 1), "eng"), reserved(scalar("disk", 300), "eng"))),
			named("c1", createOp(volume())),
			taskOp(o, "t1", reserved(scalar("cpus", 0.5), "eng"), scalar("mem", 64), volume()),
		)
		f.ackOperation(f.operation("r1", mesosv1.OperationState_OPERATION_FINISHED))
		f.ackOperation(f.operation("c1", mesosv1.OperationState_OPERATION_FINISHED))
		if m := until(a, (*agentwire.FromMaster).GetMade); len(m.GetResources()) != 3 { // before the task
			t.Errorf("the agent was told of %d resources", len(m.GetResources()))
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		const whole = "cpus:3;cpus(eng):1;disk:700;disk(eng):200;disk(eng)[v1]:100;mem:1024;ports:[31000-31009]"
		if got := c.total(a); got != whole {
			t.Errorf("the agent offers %s", got)
		}
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		o, back := f.whole(c, a)
		if back.GetDisk().GetVolume().GetContainerPath() != "data" || back.GetReservations()[0].GetRole() != "eng" || back.GetRole() != "*" {
			t.Errorf("the volume is offered as %v", back)
		}
		// What sits on a reservation has to go before it.
		f.operate(o, named("u1", unreserveOp(volume())), named("g1", growOp(volume(), reserved(scalar("disk", 50), "eng"))))
		if st := f.operation("u1", mesosv1.OperationState_OPERATION_ERROR); !strings.Contains(st.GetMessage(), "destroy the persistent volume first") {
			t.Error(st.GetMessage())
		}
		f.ackOperation(f.operation("g1", mesosv1.OperationState_OPERATION_FINISHED))
		if got := c.total(a); !strings.Contains(got, "disk(eng):150;disk(eng)[v1]:150;") {
			t.Errorf("grown: %s", got)
		}
		o, _ = f.whole(c, a)
		grown := persistent(reserved(scalar("disk", 150), "eng"), "v1", "data")
		shrunk := persistent(reserved(scalar("disk", 120), "eng"), "v1", "data")
		f.operate(o, shrinkOp(grown, 30), destroyOp(shrunk),
			named("u2", unreserveOp(reserved(scalar("cpus", 1), "eng"), reserved(scalar("disk", 300), "eng"))))
		f.ackOperation(f.operation("u2", mesosv1.OperationState_OPERATION_FINISHED))
		if got := c.total(a); got != "cpus:4;disk:1000;mem:1024;ports:[31000-31009]" {
			t.Errorf("after all was undone the agent offers %s", got)
		}
		c.m.View(func(s *state.State) {
			if left := s.AllOperations(); len(left) != 0 {
				t.Errorf("%d operations are kept that were acknowledged", len(left))
			}
		})
	})
}

// What was not acknowledged is told again, to a framework that comes back to another
// leader too, with the same uuid; a question is answered without one.
func TestOperationsAreToldUntilTheyAreAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.diskAgent()
		f := c.engineer("")
		o := f.offer()
		f.operate(o, named("r1", reserveOp(reserved(scalar("cpus", 1), "eng"))))
		first := f.operation("r1", mesosv1.OperationState_OPERATION_FINISHED)
		began := time.Now()
		if again := f.operation("r1", mesosv1.OperationState_OPERATION_FINISHED); string(again.GetUuid().GetValue()) != string(first.GetUuid().GetValue()) || time.Since(began) < 10*time.Second {
			t.Errorf("told again after %s with uuid %x, before %x", time.Since(began), again.GetUuid().GetValue(), first.GetUuid().GetValue())
		}
		f.operate(f.offer(), named("r1", reserveOp(reserved(scalar("cpus", 1), "eng"))))
		if st := f.operation("r1", mesosv1.OperationState_OPERATION_ERROR); !strings.Contains(st.GetMessage(), "operation id is in use") {
			t.Error(st.GetMessage())
		}
		a.conn.Close()
		c.end()
		c.lead()
		defer c.end()
		f = c.engineer(f.id)
		third := f.operation("r1", mesosv1.OperationState_OPERATION_FINISHED)
		if string(third.GetUuid().GetValue()) != string(first.GetUuid().GetValue()) {
			t.Error("another leader told it with another uuid")
		}
		ask := func(ops ...*scheduler.Call_ReconcileOperations_Operation) {
			if err := f.do(&scheduler.Call{Type: scheduler.Call_RECONCILE_OPERATIONS.Enum(), ReconcileOperations: &scheduler.Call_ReconcileOperations{Operations: ops}}); err != nil {
				t.Fatal(err)
			}
		}
		ask()
		if st := f.operation("r1", mesosv1.OperationState_OPERATION_FINISHED); st.Uuid != nil {
			t.Error("the answer to a question bears a uuid")
		}
		f.ackOperation(&mesosv1.OperationStatus{OperationId: first.OperationId, Uuid: &mesosv1.UUID{Value: []byte("0123456789abcdef")}}) // of nothing
		ask(&scheduler.Call_ReconcileOperations_Operation{OperationId: first.OperationId})
		f.operation("r1", mesosv1.OperationState_OPERATION_FINISHED)
		f.ackOperation(third)
		synctest.Wait()
		ask(&scheduler.Call_ReconcileOperations_Operation{OperationId: first.OperationId})
		f.operation("r1", mesosv1.OperationState_OPERATION_UNKNOWN)
	})
}

// What an operation can get wrong: it is answered with its sentence, and changes nothing.
func TestInvalidOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.diskAgent()
		defer a.conn.Close()
		f := c.engineer("")
		volume := func(mb float64) *mesosv1.Resource {
			return persistent(reserved(scalar("disk", mb), "eng"), "v1", "data")
		}
		f.operate(f.offer(), named("ok", reserveOp(reserved(scalar("disk", 500), "eng"))), createOp(volume(100)))
		f.ackOperation(f.operation("ok", mesosv1.OperationState_OPERATION_FINISHED))
		synctest.Wait()
		before := c.total(a)
		by := func(r *mesosv1.Resource, principal string) *mesosv1.Resource {
			r.Reservations[len(r.Reservations)-1].Principal = &principal
			return r
		}
		disk := func(r *mesosv1.Resource, change func(*mesosv1.Resource_DiskInfo)) *mesosv1.Resource {
			change(r.Disk)
			return r
		}
		for _, test := range []struct {
			name string
			op   *mesosv1.Offer_Operation
			want string
		}{
			{"more than is offered", reserveOp(reserved(scalar("cpus", 9), "eng")), "it needs cpus:9, and of the offers there is"},
			{"nothing", reserveOp(), "the operation names no resources"},
			{"not reserved", reserveOp(scalar("cpus", 1)), "resource cpus:1 is not dynamically reserved"},
			{"another role", reserveOp(reserved(scalar("cpus", 1), "ops")), "a reserve operation was attempted for a resource allocated to role 'eng', but the reservation is for the role 'ops'"},
			{"everybody's role", reserveOp(reserved(scalar("cpus", 1), "*")), `cpus is reserved for the role "*", which is everybody`},
			{"a role beside", reserveOp(reserved(scalar("cpus", 1), "eng", "engine")), `cpus is reserved for role "engine" inside a reservation for "eng", which it is not below`},
			{"no type", reserveOp(&mesosv1.Resource{Name: proto.String("cpus"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(1)}, Reservations: []*mesosv1.Resource_ReservationInfo{{Role: proto.String("eng")}}}), "a reservation of cpus has no type"},
			{"a volume", reserveOp(volume(50)), "a persistent volume v1 must already be reserved"},
			{"re-reservation", func() *mesosv1.Offer_Operation {
				op := reserveOp(reserved(scalar("disk", 1), "eng", "eng/a"))
				op.Reserve.Source = []*mesosv1.Resource{reserved(scalar("disk", 1), "eng")}
				return op
			}(), "'source' is for operators"},
			{"of the agent itself", unreserveOp(scalar("cpus", 1)), "resource cpus:1 is not dynamically reserved"},
			{"somebody else's reservation", unreserveOp(by(reserved(scalar("disk", 1), "eng"), "p")), "it needs disk(eng, p):1, and of the offers there is"},
			{"a volume on nobody's disk", createOp(persistent(scalar("disk", 1), "v2", "data")), "persistent volume v2 is not reserved for any role"},
			{"a volume of memory", createOp(persistent(reserved(scalar("mem", 1), "eng"), "v2", "data")), "mem is on a disk; only disk can be"},
			{"no id", createOp(persistent(reserved(scalar("disk", 1), "eng"), "", "data")), "persistence id must not be empty"},
			{"an id that is a path", createOp(persistent(reserved(scalar("disk", 1), "eng"), "../v", "data")), `persistence id "../v" contains the character '/'`},
			{"nowhere in the container", createOp(persistent(reserved(scalar("disk", 1), "eng"), "v2", "")), `container_path "" is no place for a volume`},
			{"out of the sandbox", createOp(persistent(reserved(scalar("disk", 1), "eng"), "v2", "a/../../b")), "leaves where it begins with '..'"},
			{"a path of the host", createOp(disk(persistent(reserved(scalar("disk", 1), "eng"), "v2", "data"), func(d *mesosv1.Resource_DiskInfo) { d.Volume.HostPath = proto.String("/etc") })), "only container_path and mode can be set"},
			{"no volume in it", createOp(disk(persistent(reserved(scalar("disk", 1), "eng"), "v2", "data"), func(d *mesosv1.Resource_DiskInfo) { d.Volume = nil })), "persistent volume v2 has no 'volume'"},
			{"a disk that nobody can be given", createOp(disk(persistent(reserved(scalar("disk", 1), "eng"), "v2", "data"), func(d *mesosv1.Resource_DiskInfo) {
				d.Source = &mesosv1.Resource_DiskInfo_Source{Type: mesosv1.Resource_DiskInfo_Source_RAW.Enum()}
			})), "only PATH and MOUNT are there"},
			{"a disk without a volume", createOp(reserved(scalar("disk", 1), "eng")), "1 of the resources are no persistent volumes"},
			{"one volume twice", createOp(persistent(reserved(scalar("disk", 1), "eng"), "v2", "a"), persistent(reserved(scalar("disk", 1), "eng"), "v2", "b")), "persistent volume v2 is there twice"},
			{"one volume twice, under two labels", createOp(persistent(reserved(scalar("disk", 1), "eng"), "v2", "a"), persistent(labelled(reserved(scalar("disk", 1), "eng"), "l", 1), "v2", "b")), "persistent volume v2 is there twice"},
			{"a volume of nothing", createOp(volume(0)), "persistent volume v1 has no size"},
			{"labels without end", reserveOp(labelled(reserved(scalar("cpus", 1), "eng"), strings.Repeat("x", 5000), 1)), "bytes, at most 4096 are allowed"},
			{"the sandbox itself", createOp(persistent(reserved(scalar("disk", 1), "eng"), "v2", "./")), `container_path "./" is no place for a volume`},
			{"an id that is in use", createOp(volume(50)), "volume v1 of role eng on agent " + a.id + ": a volume of this id exists in this role"},
			{"a part of a volume", destroyOp(volume(99)), "it needs disk(eng)[v1]:99, and of the offers there is"},
			{"grown by another disk", growOp(volume(100), scalar("disk", 50)), "the volume is disk(eng)[v1]:100, and the addition disk:50 is not of the same disk"},
			{"shrunk to nothing", shrinkOp(volume(100), 100), "a volume of 100 MB cannot shrink by 100 MB"},
			{"grown, no volume", growOp(reserved(scalar("disk", 1), "eng"), reserved(scalar("disk", 1), "eng")), "'volume': 1 of the resources are no persistent volumes"},
			{"of a resource provider", &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_CREATE_DISK.Enum()}, "there are no resource providers here"},
		} {
			f.operate(f.offer(), named("op", test.op))
			if st := f.operation("op", mesosv1.OperationState_OPERATION_ERROR); !strings.Contains(st.GetMessage(), test.want) || st.Uuid != nil {
				t.Errorf("%s: %s\nwant %s", test.name, st.GetMessage(), test.want)
			}
			synctest.Wait()
			if now := c.total(a); now != before {
				t.Errorf("%s: the agent offers %s, before %s", test.name, now, before)
			}
		}
	})
}

// Who made a reservation is who says so: with a principal nobody can reserve for another.
func TestReservationsBearTheirPrincipal(t *testing.T) {
	for _, test := range []struct{ caller, named, want string }{
		{"", "", ""},
		{"", "anybody", ""},
		{"p", "p", ""},
		{"p", "", "a reserve operation was attempted by principal 'p', but there is a reserved resource in the request with no principal set"},
		{"p", "q", "a reserve operation was attempted by authenticated principal 'p', which does not match a reserved resource in the request with principal 'q'"},
	} {
		r := reserved(scalar("cpus", 1), "eng")
		if test.named != "" {
			r.Reservations[0].Principal = proto.String(test.named)
		}
		_, err := conversionOf(reserveOp(r), converter{principal: test.caller})
		if got := ""; err != nil {
			if got = err.Error(); got != test.want {
				t.Errorf("%q for %q: %s", test.caller, test.named, got)
			}
		} else if test.want != "" {
			t.Errorf("%q for %q was let through", test.caller, test.named)
		}
	}
}

// What an operator wants of resources is done at once if no task uses them: offers that
// stand in the way are taken back.
func TestOperatorsReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.diskAgent()
		defer a.conn.Close()
		f := c.engineer("")
		o := f.offer()
		id := state.AgentID(a.id)
		if err := c.l.ConvertResources(t.Context(), "", id, reserveOp(reserved(scalar("cpus", 3), "ops"))); err != nil {
			t.Fatal(err)
		}
		if got := f.next(scheduler.Event_RESCIND).GetRescind().GetOfferId().GetValue(); got != o.GetId().GetValue() {
			t.Errorf("rescinded %s", got)
		}
		o = f.offer()
		if rs, err := fromWire(o.GetResources()); err != nil || rs.Milli(state.CPUs) != 1000 {
			t.Errorf("then offered %s %v", rs, err)
		}
		f.operate(o, taskOp(o, "t", scalar("cpus", 1), scalar("mem", 64)))
		until(a, (*agentwire.FromMaster).GetRun)
		for _, test := range []struct {
			op   *mesosv1.Offer_Operation
			on   state.AgentID
			want error
		}{
			{reserveOp(reserved(scalar("cpus", 1), "ops")), id, ErrConflict},
			{reserveOp(scalar("cpus", 1)), id, ErrInvalid},
			{reserveOp(reserved(scalar("cpus", 1), "ops")), "none", ErrAgentUnknown},
		} {
			if err := c.l.ConvertResources(t.Context(), "", test.on, test.op); !errors.Is(err, test.want) {
				t.Errorf("%v on %s: %v", test.op, test.on, err)
			}
		}
		// From one role to another in one step, and into a part of it.
		move := reserveOp(reserved(scalar("cpus", 2), "dev"))
		move.Reserve.Source = []*mesosv1.Resource{reserved(scalar("cpus", 2), "ops")}
		refine := reserveOp(reserved(scalar("cpus", 2), "dev", "dev/a"))
		for _, op := range []*mesosv1.Offer_Operation{move, refine} {
			if err := c.l.ConvertResources(t.Context(), "", id, op); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.total(a); !strings.HasPrefix(got, "cpus:1;cpus(dev; dev/a):2;cpus(ops):1;") {
			t.Errorf("the agent offers %s", got)
		}
	})
}

// An agent that attaches again brings what it came with; what was made of it stays, and it
// is told.
func TestWhatWasMadeStaysWithTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.diskAgent()
		if err := c.l.ConvertResources(t.Context(), "", state.AgentID(a.id), reserveOp(reserved(scalar("disk", 600), "eng"))); err != nil {
			t.Fatal(err)
		}
		until(a, (*agentwire.FromMaster).GetMade) // of nothing
		a.made = until(a, (*agentwire.FromMaster).GetMade).GetResources()
		a.conn.Close()
		id := a.id
		a = c.agent("n1")
		a.id, a.disk = id, 400 // it lost a disk meanwhile
		a.attach("n1")
		if m := until(a, (*agentwire.FromMaster).GetMade); len(m.GetResources()) != 1 {
			t.Errorf("told of %d resources", len(m.GetResources()))
		}
		if got := c.total(a); got != "cpus:4;disk(eng):600;mem:1024;ports:[31000-31009]" {
			t.Errorf("with a smaller disk the agent offers %s", got)
		}
		a.conn.Close()
		a = c.agent("n1")
		a.id, a.disk = id, 1000
		a.attach("n1")
		if got := c.total(a); got != "cpus:4;disk:400;disk(eng):600;mem:1024;ports:[31000-31009]" {
			t.Errorf("with the disk back the agent offers %s", got)
		}
		a.conn.Close()
		c.end()
	})
}
