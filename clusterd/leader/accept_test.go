package leader

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
}

func portRange(begin, end uint64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{{Begin: &begin, End: &end}}}}
}

// launch accepts an offer with one task, which change may spoil.
func (s *subscriber) launch(offer *mesosv1.Offer, id string, change func(*mesosv1.TaskInfo), more ...func(*scheduler.Call_Accept)) {
	s.t.Helper()
	info := &mesosv1.TaskInfo{
		Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: offer.GetAgentId(),
		Command: &mesosv1.CommandInfo{Value: proto.String("true")}, Resources: []*mesosv1.Resource{scalar("cpus", 0.5), scalar("mem", 32)},
	}
	if change != nil {
		change(info)
	}
	a := &scheduler.Call_Accept{
		OfferIds: []*mesosv1.OfferID{offer.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)},
		Operations: []*mesosv1.Offer_Operation{{
			Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{info}},
		}},
	}
	for _, f := range more {
		f(a)
	}
	if err := s.do(&scheduler.Call{Type: scheduler.Call_ACCEPT.Enum(), Accept: a}); err != nil {
		s.t.Fatal(err)
	}
}

// What makes a task invalid: TASK_ERROR by the master, which needs no acknowledgement, and
// the offer's resources are free again.
func TestInvalidTasks(t *testing.T) {
	type task = mesosv1.TaskInfo
	limit := func(name string, v float64) func(*task) {
		return func(t *task) { t.Limits = map[string]*mesosv1.Value_Scalar{name: {Value: &v}} }
	}
	resources := func(rs ...*mesosv1.Resource) func(*task) { return func(t *task) { t.Resources = rs } }
	with := func(r *mesosv1.Resource, change func(*mesosv1.Resource)) *mesosv1.Resource { change(r); return r }
	const tooMany = "Task uses more resources "
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		for _, test := range []struct {
			name, id string
			change   func(*task)
			want     string // the message begins so
		}{
			{"slash in the id", "a/b", nil, `task id "a/b" contains the character '/', which is not allowed`},
			{"backslash in the id", `a\b`, nil, `task id "a\\b" contains the character '\\'`},
			{"control character in the id", "a\tb", nil, `task id "a\tb" contains the character '\t'`},
			{"no id", "", nil, "task id must not be empty"},
			{"the id is a dot", ".", nil, `task id must not be "."`},
			{"the id is two dots", "..", nil, `task id must not be ".."`},
			{"the id is too long for a file name", strings.Repeat("x", 256), nil, "task id has 256 bytes, at most 255 are allowed"},
			{"another agent", "t", func(t *task) { t.AgentId = &mesosv1.AgentID{Value: proto.String("other")} }, "task uses invalid agent other while agent "},
			{"an executor", "t", func(t *task) { t.Command, t.Executor = nil, &mesosv1.ExecutorInfo{} }, "executor id must not be empty"},
			{"command and executor", "t", func(t *task) { t.Executor = &mesosv1.ExecutorInfo{} }, "task should have at least one (but not both) of CommandInfo or ExecutorInfo present"},
			{"neither command nor executor", "t", func(t *task) { t.Command = nil }, "task should have at least one (but not both) of CommandInfo or ExecutorInfo present"},
			{"a health check of nothing", "t", func(t *task) { t.HealthCheck = &mesosv1.HealthCheck{} }, "task uses invalid health check: HealthCheck must specify 'type'"},
			{"a check of nothing", "t", func(t *task) { t.Check = &mesosv1.CheckInfo{} }, "task uses invalid check: CheckInfo must specify 'type'"},
			{"a secret in the environment", "t", func(t *task) {
				t.Command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: proto.String("S"), Type: mesosv1.Environment_Variable_SECRET.Enum()}}}
			}, `environment variable "S" refers to a secret by name`},
			{"negative grace", "t", func(t *task) {
				t.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(-1)}}
			}, "task's 'kill_policy.grace_period' must be non-negative"},
			{"negative time limit", "t", func(t *task) { t.MaxCompletionTime = &mesosv1.DurationInfo{Nanoseconds: proto.Int64(-1)} }, "task's 'max_completion_time' must be non-negative"},
			{"more than offered", "t", resources(scalar("cpus", 99), scalar("mem", 32)), tooMany + "cpus:99;mem:32 than available cpus:4;mem:1024;ports:[31000-31009]"},
			{"a thousandth more than offered", "t", resources(scalar("cpus", 4.001)), tooMany + "cpus:4.001 than available"},
			{"a port that was not offered", "t", resources(scalar("cpus", 1), portRange(31009, 31010)), tooMany},
			{"a resource that nobody has", "t", resources(scalar("cpus", 1), scalar("bananas", 1)), tooMany},
			{"a port that does not exist", "t", resources(scalar("cpus", 1), portRange(31000, 70000)), "task uses port 70000, which does not exist"},
			{"no resources", "t", resources(), "task uses no resources"},
			{"zero resources only", "t", resources(scalar("cpus", 0)), "task uses no resources"},
			{"negative cpus", "t", resources(scalar("cpus", -1)), "task uses invalid resources: cpus: -1 is no amount"},
			{"NaN", "t", resources(scalar("cpus", math.NaN())), "task uses invalid resources: cpus: NaN is no amount"},
			{"less than a thousandth", "t", resources(scalar("cpus", 0.0004)), "task uses invalid resources: cpus: 0.0004 is less than 0.001"},
			{"half a GPU", "t", resources(scalar("cpus", 1), scalar("gpus", 0.5)), "task uses invalid resources: gpus: 0.5 is not a whole number"},
			{"a resource without a name", "t", resources(scalar("", 1)), "task uses invalid resources: a resource has no name"},
			{"a range upside down", "t", resources(scalar("cpus", 1), portRange(31005, 31001)), "task uses invalid resources: "},
			{"revocable", "t", resources(with(scalar("cpus", 1), func(r *mesosv1.Resource) { r.Revocable = &mesosv1.Resource_RevocableInfo{} })), tooMany + "cpus{rev}:1 than available"},
			{"shared, and no volume", "t", resources(with(scalar("disk", 1), func(r *mesosv1.Resource) { r.Shared = &mesosv1.Resource_SharedInfo{} })), "task uses invalid resources: disk is shared; only persistent volumes can be"},
			{"reserved by somebody", "t", resources(with(scalar("cpus", 1), func(r *mesosv1.Resource) {
				r.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String("r")}}
			})), tooMany + "cpus(r):1 than available"},
			{"a volume as resource that is nobody's", "t", resources(with(scalar("disk", 1), func(r *mesosv1.Resource) {
				r.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String("v")}, Volume: &mesosv1.Volume{ContainerPath: proto.String("data"), Mode: mesosv1.Volume_RW.Enum()}}
			})), "task uses invalid resources: persistent volume v is not reserved for any role"},
			{"somebody's volume, of nothing", "t", resources(scalar("cpus", 1), with(scalar("disk", 0), func(r *mesosv1.Resource) {
				r.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String("r")}}
				r.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String("v")}, Volume: &mesosv1.Volume{ContainerPath: proto.String("data"), Mode: mesosv1.Volume_RW.Enum()}}
			})), "task uses invalid resources: persistent volume v has no size"},
			{"a volume that ends with its task", "t", resources(with(scalar("disk", 1), func(r *mesosv1.Resource) {
				r.Disk = &mesosv1.Resource_DiskInfo{Volume: &mesosv1.Volume{ContainerPath: proto.String("data"), Mode: mesosv1.Volume_RW.Enum()}}
			})), "task uses invalid resources: disk has a 'volume' and no 'persistence'"},
			{"another role's", "t", resources(with(scalar("cpus", 1), func(r *mesosv1.Resource) {
				r.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String("eng")}
			})), `task uses cpus allocated to the role "eng", its offers are of the role "*"`},
			{"limit below the request", "t", limit("cpus", 0.4), "task's limit of cpus (0.4) is less than its request (0.5)"},
			{"limit of disk", "t", limit("disk", 100), `task sets a limit for "disk"; only cpus and mem can have one`},
			{"limit is no number", "t", limit("mem", math.NaN()), "task's limit of mem (NaN)"},
		} {
			f.launch(f.offer(), test.id, test.change)
			st := f.update(mesosv1.TaskState_TASK_ERROR)
			if !strings.HasPrefix(st.GetMessage(), test.want) {
				t.Errorf("%s: %q, want %q", test.name, st.GetMessage(), test.want)
			}
			if st.GetReason() != mesosv1.TaskStatus_REASON_TASK_INVALID || st.GetSource() != mesosv1.TaskStatus_SOURCE_MASTER || st.Uuid != nil ||
				st.GetAgentId().GetValue() != a.id || st.GetTimestamp() == 0 || st.GetTaskId().GetValue() != test.id {
				t.Errorf("%s: %v", test.name, st)
			}
		}
		// One invalid task does not keep the others of the same call from being launched.
		f.launch(f.offer(), "a/b", nil, func(a *scheduler.Call_Accept) {
			good := proto.Clone(a.Operations[0].Launch.TaskInfos[0]).(*mesosv1.TaskInfo)
			good.TaskId.Value = proto.String("good")
			a.Operations[0].Launch.TaskInfos = append(a.Operations[0].Launch.TaskInfos, good)
		})
		f.update(mesosv1.TaskState_TASK_ERROR)
		if run := until(a, (*agentwire.FromMaster).GetRun); !strings.Contains(string(run.GetTaskInfo()), "good") {
			t.Errorf("run %v", run)
		}
	})
}

// What old and careless clients send is taken.
func TestValidTasks(t *testing.T) {
	type task = mesosv1.TaskInfo
	for _, test := range []struct {
		name   string
		change func(*task)
	}{
		{"zero GPUs", func(t *task) { t.Resources = append(t.Resources, scalar("gpus", 0)) }},
		{"limits above the request", func(t *task) {
			t.Limits = map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(2)}, "mem": {Value: proto.Float64(math.Inf(1))}}
		}},
		{"everything that was offered", func(t *task) {
			t.Resources = []*mesosv1.Resource{scalar("cpus", 4), scalar("mem", 1024), portRange(31000, 31009)}
		}},
		{"one resource in two parts, off by less than a thousandth", func(t *task) {
			t.Resources = []*mesosv1.Resource{scalar("cpus", 0.1), scalar("cpus", 0.2), scalar("mem", 32.0000001)}
		}},
		{"the role that was offered", func(t *task) {
			t.Resources[0].AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String("*")}
		}},
		{"an id of 255 bytes", func(t *task) { t.TaskId.Value = proto.String(strings.Repeat("x", 255)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCell(t)
				defer c.end()
				a := c.agent("n1")
				defer a.conn.Close()
				a.attach("n1")
				f := c.subscribe("f", "")
				f.next(scheduler.Event_SUBSCRIBED)
				f.launch(f.offer(), "t", test.change)
				info := &mesosv1.TaskInfo{}
				if err := proto.Unmarshal(until(a, (*agentwire.FromMaster).GetRun).GetTaskInfo(), info); err != nil {
					t.Fatal(err)
				}
				for _, r := range info.GetResources() {
					if r.GetAllocationInfo().GetRole() != "*" {
						t.Errorf("the agent gets %v without the role it is allocated to", r)
					}
				}
			})
		})
	}
}

// Operations that are not valid.
func TestOtherOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t1", nil, func(a *scheduler.Call_Accept) { a.Operations[0].Id = &mesosv1.OperationID{Value: proto.String("o")} })
		if st := f.update(mesosv1.TaskState_TASK_ERROR); st.GetReason() != mesosv1.TaskStatus_REASON_TASK_INVALID || st.GetMessage() != "'id' must not be set on LAUNCH operations" {
			t.Errorf("LAUNCH with an id: %v", st)
		}
		f.launch(f.offer(), "t2", nil, func(a *scheduler.Call_Accept) {
			a.Operations[0] = &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH_GROUP.Enum(), LaunchGroup: &mesosv1.Offer_Operation_LaunchGroup{
				Executor: &mesosv1.ExecutorInfo{}, TaskGroup: &mesosv1.TaskGroupInfo{Tasks: a.Operations[0].Launch.TaskInfos},
			}}
		})
		if st := f.update(mesosv1.TaskState_TASK_ERROR); st.GetReason() != mesosv1.TaskStatus_REASON_TASK_GROUP_INVALID || !strings.Contains(st.GetMessage(), "executor id must not be empty") {
			t.Errorf("LAUNCH_GROUP: %v", st)
		}
		// The others are dropped, and do not stop what follows them.
		f.launch(f.offer(), "t3", nil, func(a *scheduler.Call_Accept) {
			a.Operations = append([]*mesosv1.Offer_Operation{{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{}}}, a.Operations...)
		})
		until(a, (*agentwire.FromMaster).GetRun)
	})
}

// Offers that are good for nothing together: every task is lost, whoever is told by the
// word that it knows, and the framework's own offers among them are free again.
func TestUselessOffers(t *testing.T) {
	for _, aware := range []bool{false, true} {
		want, caps := mesosv1.TaskState_TASK_LOST, []mesosv1.FrameworkInfo_Capability_Type(nil)
		if aware {
			want, caps = mesosv1.TaskState_TASK_DROPPED, append(caps, mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)
		}
		synctest.Test(t, func(t *testing.T) {
			c := newCell(t)
			defer c.end()
			for _, n := range []string{"n1", "n2"} {
				a := c.agent(n)
				defer a.conn.Close()
				a.attach(n)
			}
			f := c.subscribe("f", "", caps...)
			f.next(scheduler.Event_SUBSCRIBED)
			gather := func(n int) (list []*mesosv1.Offer) {
				for len(list) < n {
					list = append(list, f.next(scheduler.Event_OFFERS).GetOffers().GetOffers()...)
				}
				return list
			}
			foreign := &mesosv1.OfferID{Value: proto.String(generation + "-O1.999")}
			for _, test := range []struct {
				name  string
				spoil func(*scheduler.Call_Accept, *mesosv1.Offer)
			}{
				{"unknown", func(a *scheduler.Call_Accept, _ *mesosv1.Offer) { a.OfferIds[0] = foreign }},
				{"one of two is unknown", func(a *scheduler.Call_Accept, _ *mesosv1.Offer) { a.OfferIds = append(a.OfferIds, foreign) }},
				{"named twice", func(a *scheduler.Call_Accept, _ *mesosv1.Offer) { a.OfferIds = append(a.OfferIds, a.OfferIds[0]) }},
				{"of two agents", func(a *scheduler.Call_Accept, o *mesosv1.Offer) { a.OfferIds = append(a.OfferIds, o.GetId()) }},
				{"none", func(a *scheduler.Call_Accept, _ *mesosv1.Offer) { a.OfferIds = nil }},
			} {
				list := gather(2)
				f.launch(list[0], "t", nil, func(a *scheduler.Call_Accept) { test.spoil(a, list[1]) })
				st := f.update(want)
				if st.GetReason() != mesosv1.TaskStatus_REASON_INVALID_OFFERS || st.GetSource() != mesosv1.TaskStatus_SOURCE_MASTER || st.Uuid != nil {
					t.Errorf("%s: %v", test.name, st)
				}
				// What is still outstanding is given back, so that the next round offers both.
				decline := &scheduler.Call_Decline{Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)}}
				for _, o := range list {
					decline.OfferIds = append(decline.OfferIds, o.GetId())
				}
				if err := f.do(&scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: decline}); err != nil {
					t.Fatal(err)
				}
			}
			// An offer that was made to somebody else, and stays his.
			list := gather(2)
			g := c.subscribe("g", "")
			g.next(scheduler.Event_SUBSCRIBED)
			g.launch(list[0], "t", nil)
			if st := g.update(mesosv1.TaskState_TASK_LOST); st.GetReason() != mesosv1.TaskStatus_REASON_INVALID_OFFERS {
				t.Errorf("foreign: %v", st)
			}
			f.launch(list[0], "t", nil)
			synctest.Wait()
			if _, ok := c.task(f.id, "t"); !ok {
				t.Error("the offer was lost by a stranger's call")
			}
		})
	}
}

func (c *cell) task(framework, id string) (t state.Task, ok bool) {
	c.m.View(func(s *state.State) {
		if p, found := s.TaskOf(state.FrameworkID(framework), state.TaskID(id)); found {
			t, ok = *p, true
		}
	})
	return t, ok
}

// Why an agent of a valid offer cannot be launched on any more.
func TestLaunchOnAnAgentThatLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "", mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)
		f.next(scheduler.Event_SUBSCRIBED)
		offer := f.offer()
		// The offer is taken back with the connection; a call that crossed that on its way
		// names an offer that is no longer valid.
		a.conn.Close()
		if id := f.next(scheduler.Event_RESCIND).GetRescind().GetOfferId().GetValue(); id != offer.GetId().GetValue() {
			t.Errorf("rescinded %s", id)
		}
		f.launch(offer, "t1", nil)
		if st := f.update(mesosv1.TaskState_TASK_DROPPED); st.GetReason() != mesosv1.TaskStatus_REASON_INVALID_OFFERS {
			t.Errorf("%v", st)
		}
	})
}

// Task ids that are in use.
func TestDuplicateTaskIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a, b := c.agent("n1"), c.agent("n2")
		a.attach("n1")
		b.attach("n2")
		defer b.conn.Close()
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		held := map[string]*mesosv1.Offer{} // by agent
		offerOf := func(agent string) *mesosv1.Offer {
			for held[agent] == nil {
				for _, o := range f.next(scheduler.Event_OFFERS).GetOffers().GetOffers() {
					held[o.GetAgentId().GetValue()] = o
				}
			}
			o := held[agent]
			delete(held, agent)
			return o
		}
		f.launch(offerOf(a.id), "t", nil)
		run := until(a, (*agentwire.FromMaster).GetRun)
		f.launch(offerOf(b.id), "t", nil)
		if st := f.update(mesosv1.TaskState_TASK_ERROR); st.GetMessage() != "Task has duplicate ID: t" || st.GetReason() != mesosv1.TaskStatus_REASON_TASK_INVALID {
			t.Errorf("%v", st)
		}
		a.conn.Close()
		f.update(mesosv1.TaskState_TASK_LOST)
		f.launch(offerOf(b.id), "t", nil)
		if st := f.update(mesosv1.TaskState_TASK_ERROR); st.GetMessage() != "Task reuses the ID of an unreachable task: t" {
			t.Errorf("%v", st)
		}
		// When it has ended and that was acknowledged, the id is free.
		a = c.agent("n1")
		defer a.conn.Close()
		a.attach("n1", &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)})
		f.update(mesosv1.TaskState_TASK_STAGING)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		f.launch(offerOf(b.id), "t", nil)
		until(b, (*agentwire.FromMaster).GetRun)
	})
}
