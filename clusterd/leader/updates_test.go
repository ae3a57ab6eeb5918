package leader

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
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

// An update comes again, from after 10 s up to every 10 min, until it is acknowledged
// properly.
func TestUpdatesAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t", nil)
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		st := f.update(mesosv1.TaskState_TASK_RUNNING)
		last, pauses := time.Now(), []time.Duration(nil)
		for range 9 {
			if again := f.update(mesosv1.TaskState_TASK_RUNNING); !proto.Equal(again, st) {
				t.Errorf("%v, before %v", again, st)
			}
			pauses = append(pauses, time.Since(last).Round(time.Second))
			last = time.Now()
		}
		if got, want := fmt.Sprint(pauses), "[10s 20s 40s 1m20s 2m40s 5m20s 10m0s 10m0s 10m0s]"; got != want {
			t.Errorf("again after %s, want %s", got, want)
		}
		// None of these is its acknowledgement.
		for name, change := range map[string]func(*mesosv1.TaskStatus){
			"another uuid":  func(s *mesosv1.TaskStatus) { s.Uuid = make([]byte, 16) },
			"another agent": func(s *mesosv1.TaskStatus) { s.AgentId = &mesosv1.AgentID{Value: proto.String("x")} },
			"another task":  func(s *mesosv1.TaskStatus) { s.TaskId = &mesosv1.TaskID{Value: proto.String("x")} },
		} {
			wrong := proto.Clone(st).(*mesosv1.TaskStatus)
			change(wrong)
			f.ack(wrong)
			synctest.Wait()
			if got, _ := c.task(f.id, "t"); got.Acknowledged {
				t.Errorf("%s was taken for the acknowledgement", name)
			}
		}
		if n := c.l.counters["master/invalid_status_update_acknowledgements"]; n != 3 {
			t.Errorf("%v invalid acknowledgements were counted, want 3", n)
		}
		f.ack(st)
		synctest.Wait()
		if got, _ := c.task(f.id, "t"); !got.Acknowledged {
			t.Error("not acknowledged")
		}
		time.Sleep(time.Hour)
		select {
		case e := <-f.events:
			if e.GetType() == scheduler.Event_UPDATE {
				t.Errorf("after the acknowledgement came %v", e)
			}
		default:
		}
	})
}

// The table of explicit reconciliation; every answer is the master's, without uuid.
func TestReconciliation(t *testing.T) {
	type answer struct{ aware, other mesosv1.TaskState }
	const (
		gone, lost, unknown  = mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_LOST, mesosv1.TaskState_TASK_UNKNOWN
		running, unreachable = mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_UNREACHABLE
		none                 = mesosv1.TaskState(-1)
	)
	for _, aware := range []bool{true, false} {
		t.Run(fmt.Sprint("partition aware: ", aware), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCell(t)
				agents := map[string]*played{}
				ids := map[string]string{"": "", "nobody": "nobody"}
				for _, n := range []string{"here", "away", "recovered"} {
					agents[n] = c.agent(n)
					agents[n].attach(n)
					ids[n] = agents[n].id
				}
				caps := []mesosv1.FrameworkInfo_Capability_Type{}
				if aware {
					caps = append(caps, partitioned)
				}
				f := c.subscribe("f", "", caps...)
				f.next(scheduler.Event_SUBSCRIBED)
				for n := 0; n < 3; {
					for _, o := range f.next(scheduler.Event_OFFERS).GetOffers().GetOffers() {
						f.launch(o, "t-"+o.GetHostname(), nil)
						n++
					}
				}
				held := map[string]*agentwire.Held{}
				for n, a := range agents {
					run := until(a, (*agentwire.FromMaster).GetRun)
					a.report(run.GetContainerId(), 1, running)
					held[n] = &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(running)}
				}
				for range agents {
					f.ack(f.update(running))
				}
				agents["away"].conn.Close()
				f.update(map[bool]mesosv1.TaskState{true: unreachable, false: lost}[aware])
				c.end()
				c.lead()
				defer c.end()
				f = c.subscribe("f", f.id, caps...)
				f.next(scheduler.Event_SUBSCRIBED)
				for h := until(agents["here"], (*agentwire.FromMaster).GetHello); h.GetLeading(); h = until(agents["here"], (*agentwire.FromMaster).GetHello) {
				}
				agents["here"].attach("here", held["here"])
				ask := func(list ...*scheduler.Call_Reconcile_Task) (got []*mesosv1.TaskStatus) {
					t.Helper()
					if err := f.do(&scheduler.Call{Type: scheduler.Call_RECONCILE.Enum(), Reconcile: &scheduler.Call_Reconcile{Tasks: list}}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					for {
						select {
						case e := <-f.events:
							if e.GetType() == scheduler.Event_UPDATE {
								got = append(got, e.GetUpdate().GetStatus())
							}
						default:
							return got
						}
					}
				}
				for _, test := range []struct {
					name, task, agent string
					want              answer
				}{
					{"known, running", "t-here", "here", answer{running, running}},
					{"known, no agent named", "t-here", "", answer{running, running}},
					{"known, its agent not back yet", "t-recovered", "recovered", answer{running, running}},
					{"known, its agent unreachable", "t-away", "away", answer{unreachable, lost}},
					{"unknown, its agent not back yet", "x", "recovered", answer{none, none}},
					{"unknown, no agent named, one not back yet", "x", "", answer{none, none}},
					{"unknown, its agent here", "x", "here", answer{gone, lost}},
					{"unknown, its agent unreachable", "x", "away", answer{unreachable, lost}},
					{"unknown, agent unknown", "x", "nobody", answer{unknown, lost}},
				} {
					q := &scheduler.Call_Reconcile_Task{TaskId: &mesosv1.TaskID{Value: &test.task}}
					if id := ids[test.agent]; id != "" {
						q.AgentId = &mesosv1.AgentID{Value: &id}
					}
					want := test.want.other
					if aware {
						want = test.want.aware
					}
					got := ask(q)
					if want == none {
						if len(got) > 0 {
							t.Errorf("%s: %v", test.name, got)
						}
						continue
					}
					if len(got) != 1 {
						t.Errorf("%s: %d answers", test.name, len(got))
						continue
					}
					st := got[0]
					if st.GetState() != want || st.GetReason() != mesosv1.TaskStatus_REASON_RECONCILIATION || st.GetSource() != mesosv1.TaskStatus_SOURCE_MASTER ||
						st.Uuid != nil || st.Data != nil || test.agent != "" && st.GetAgentId().GetValue() != ids[test.agent] || st.GetTaskId().GetValue() != test.task {
						t.Errorf("%s: %v, want %s", test.name, st, want)
					}
					if (st.UnreachableTime != nil) != (want == unreachable) {
						t.Errorf("%s: unreachable_time %v", test.name, st.UnreachableTime)
					}
				}
				// Implicit: all that the cluster holds, but for the unreachable ones.
				var names []string
				for _, st := range ask() {
					names = append(names, st.GetTaskId().GetValue()+" "+st.GetState().String())
				}
				if len(names) != 2 || !strings.Contains(fmt.Sprint(names), "t-here TASK_RUNNING") || !strings.Contains(fmt.Sprint(names), "t-recovered TASK_RUNNING") {
					t.Errorf("implicit: %v", names)
				}
			})
		})
	}
}

// When an agent is lost: first its tasks' updates, then its offers, then itself.
func TestOrderOfALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t1", nil)
		f.launch(f.offer(), "t2", nil)
		left := f.offer()
		a.mute.Store(true) // it hears and says nothing, and its connection stays
		var order []string
		for len(order) < 4 {
			e := <-f.events
			switch e.GetType() {
			case scheduler.Event_UPDATE:
				order = append(order, e.GetUpdate().GetStatus().GetState().String())
			case scheduler.Event_RESCIND:
				if id := e.GetRescind().GetOfferId().GetValue(); id != left.GetId().GetValue() {
					t.Errorf("rescinded %s", id)
				}
				order = append(order, "RESCIND")
			case scheduler.Event_FAILURE:
				order = append(order, "FAILURE "+strings.TrimPrefix(e.GetFailure().GetAgentId().GetValue(), generation))
			}
		}
		if got, want := fmt.Sprint(order), "[TASK_LOST TASK_LOST RESCIND FAILURE -S0]"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// For how long a decline keeps the same resources away.
func TestRefuseSeconds(t *testing.T) {
	for _, test := range []struct {
		name    string
		filters *mesosv1.Filters
		want    time.Duration
	}{
		{"no filters", nil, 5 * time.Second},
		{"filters without seconds", &mesosv1.Filters{}, 5 * time.Second},
		{"a minute", &mesosv1.Filters{RefuseSeconds: proto.Float64(60)}, time.Minute},
		{"zero is none", &mesosv1.Filters{RefuseSeconds: proto.Float64(0)}, 0},
		{"less than a round", &mesosv1.Filters{RefuseSeconds: proto.Float64(0.01)}, time.Second},
		{"negative", &mesosv1.Filters{RefuseSeconds: proto.Float64(-3)}, 5 * time.Second},
		{"no number", &mesosv1.Filters{RefuseSeconds: proto.Float64(math.NaN())}, 5 * time.Second},
		{"for ever is a year", &mesosv1.Filters{RefuseSeconds: proto.Float64(math.Inf(1))}, 365 * 24 * time.Hour},
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
				o := f.offer()
				began := time.Now()
				if err := f.do(&scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: test.filters}}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if test.want > time.Hour { // nobody plays an agent for a year
					until := time.Now().Add(test.want + time.Minute)
					c.l.filters.Expire(c.l.sinceNS(until.Add(-2 * time.Minute)))
					if c.l.filters.Len() != 1 {
						t.Error("it expired too early")
					}
					c.l.filters.Expire(c.l.sinceNS(until))
					if c.l.filters.Len() != 0 {
						t.Error("it does not expire")
					}
					return
				}
				f.offer()
				if took := time.Since(began); took < test.want || took > test.want+1500*time.Millisecond {
					t.Errorf("offered again after %s, want %s", took, test.want)
				}
			})
		})
	}
}

// SUPPRESS and REVIVE are of single roles; an invalid one drops the whole call.
func TestSuppressAndReviveByRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		f := c.subscribeAs("", frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Roles = []string{"a", "b"} }, multiRole), "a")
		f.next(scheduler.Event_SUBSCRIBED)
		suppressed := func() string {
			var out []string
			if err := c.l.View(t.Context(), func(_ *state.State, v Live) { out = v.Connected[state.FrameworkID(f.id)].Suppressed }); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(out)
		}
		suppress := func(roles ...string) *scheduler.Call {
			return &scheduler.Call{Type: scheduler.Call_SUPPRESS.Enum(), Suppress: &scheduler.Call_Suppress{Roles: roles}}
		}
		revive := func(roles ...string) *scheduler.Call {
			return &scheduler.Call{Type: scheduler.Call_REVIVE.Enum(), Revive: &scheduler.Call_Revive{Roles: roles}}
		}
		if got := suppressed(); got != "[a]" {
			t.Errorf("after SUBSCRIBE: %s", got)
		}
		for _, step := range []struct {
			name string
			call *scheduler.Call
			want string
		}{
			{"revive of a stranger's role among others", revive("a", "x"), "[a]"},
			{"suppress of a stranger's role among others", suppress("b", "x"), "[a]"},
			{"suppress b", suppress("b"), "[a b]"},
			{"revive a", revive("a"), "[b]"},
			{"suppress all", suppress(), "[a b]"},
			{"revive all", revive(), "[]"},
			{"suppress all, without a message", &scheduler.Call{Type: scheduler.Call_SUPPRESS.Enum()}, "[a b]"},
			{"revive all, without a message", &scheduler.Call{Type: scheduler.Call_REVIVE.Enum()}, "[]"},
		} {
			if err := f.do(step.call); err != nil {
				t.Fatal(err)
			}
			if got := suppressed(); got != step.want {
				t.Errorf("%s: suppressed %s, want %s", step.name, got, step.want)
			}
		}
		// A new subscription says anew what is suppressed.
		if err := f.do(suppress()); err != nil {
			t.Fatal(err)
		}
		id := f.id
		f = c.subscribeAs("", frameworkInfo(func(i *mesosv1.FrameworkInfo) {
			i.Id, i.Roles = &mesosv1.FrameworkID{Value: &id}, []string{"a", "b"}
		}, multiRole))
		f.next(scheduler.Event_SUBSCRIBED)
		if got := suppressed(); got != "[]" {
			t.Errorf("after SUBSCRIBE again: %s", got)
		}
	})
}

// What KILL does beside killing.
func TestKillOfWhatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "", partitioned)
		f.next(scheduler.Event_SUBSCRIBED)
		kill := func(task, agent string, grace time.Duration) {
			t.Helper()
			k := &scheduler.Call_Kill{TaskId: &mesosv1.TaskID{Value: &task}}
			if agent != "" {
				k.AgentId = &mesosv1.AgentID{Value: &agent}
			}
			if grace >= 0 {
				k.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(grace))}}
			}
			if err := f.do(&scheduler.Call{Type: scheduler.Call_KILL.Enum(), Kill: k}); err != nil {
				t.Fatal(err)
			}
		}
		kill("x", "", -1)
		if st := f.update(mesosv1.TaskState_TASK_UNKNOWN); st.GetReason() != mesosv1.TaskStatus_REASON_RECONCILIATION {
			t.Errorf("unknown task: %v", st)
		}
		kill("x", a.id, -1)
		f.update(mesosv1.TaskState_TASK_GONE)
		f.launch(f.offer(), "t", nil)
		run := until(a, (*agentwire.FromMaster).GetRun)
		kill("t", "another", -1)
		synctest.Wait()
		if got, _ := c.task(f.id, "t"); got.KillRequested {
			t.Error("killed by a call that names another agent")
		}
		// A disconnected agent hears of it when it is back.
		a.conn.Close()
		synctest.Wait()
		kill("t", a.id, 7*time.Second)
		b := c.agent("n1")
		defer b.conn.Close()
		b.id = a.id
		b.attach("n1", &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)})
		if k := until(b, (*agentwire.FromMaster).GetKill); k.GetContainerId() != run.GetContainerId() || k.GetGraceNs() != int64(7*time.Second) {
			t.Errorf("kill %v", k)
		}
	})
}

// A call about a task whose launch is on its way into the log waits for it: the answer
// "unknown" would be wrong a moment later, and a kill would be lost.
func TestKillAndReconcileOvertakeTheLaunch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "", partitioned)
		f.next(scheduler.Event_SUBSCRIBED)
		offer := f.offer()
		gate := make(chan struct{})
		c.log.mu.Lock()
		c.log.gate = gate
		c.log.mu.Unlock()
		id := &mesosv1.TaskID{Value: proto.String("t")}
		done := make(chan error, 3)
		go func() { done <- f.accept(offer, "t", 1) }()
		synctest.Wait()
		go func() {
			done <- f.do(&scheduler.Call{Type: scheduler.Call_RECONCILE.Enum(), Reconcile: &scheduler.Call_Reconcile{Tasks: []*scheduler.Call_Reconcile_Task{{TaskId: id}}}})
		}()
		go func() {
			done <- f.do(&scheduler.Call{Type: scheduler.Call_KILL.Enum(), Kill: &scheduler.Call_Kill{TaskId: id}})
		}()
		synctest.Wait()
		close(gate)
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		f.update(mesosv1.TaskState_TASK_STAGING)
		run := until(a, (*agentwire.FromMaster).GetRun)
		if k := until(a, (*agentwire.FromMaster).GetKill); k.GetContainerId() != run.GetContainerId() {
			t.Errorf("kill %v", k)
		}
	})
}

// MESSAGE to an executor on an agent that is not there is taken, dropped, and the log says so.
func TestMessageIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		var out bytes.Buffer
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		synctest.Wait()
		c.l.log = slog.New(slog.NewTextHandler(&out, nil))
		if err := f.do(&scheduler.Call{Type: scheduler.Call_MESSAGE.Enum(), Message: &scheduler.Call_Message{
			AgentId: &mesosv1.AgentID{Value: proto.String("s")}, ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}, Data: []byte("hello"),
		}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := out.String(); !strings.Contains(got, "message to an executor dropped: its agent is not attached") || !strings.Contains(got, "executor=e agent=s") {
			t.Errorf("log: %s", got)
		}
		if n := c.l.counters["master/invalid_framework_to_executor_messages"]; n != 1 {
			t.Errorf("%v messages counted as dropped", n)
		}
	})
}

// Of updates with the same state in a row only the newest is shown: some clients fail when
// TASK_RUNNING is there twice.
func TestStatusesAreOneByState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t", nil)
		run := until(a, (*agentwire.FromMaster).GetRun)
		for i, s := range []mesosv1.TaskState{
			mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_RUNNING,
		} {
			a.report(run.GetContainerId(), byte(i+1), s)
			f.ack(f.update(s))
		}
		a.report(run.GetContainerId(), 9, mesosv1.TaskState_TASK_FINISHED)
		f.update(mesosv1.TaskState_TASK_FINISHED)
		got, _ := c.task(f.id, "t")
		var states []string
		for _, st := range got.Statuses {
			states = append(states, mesosv1.TaskState(st.State).String())
		}
		if fmt.Sprint(states) != "[TASK_STARTING TASK_RUNNING TASK_FINISHED]" {
			t.Errorf("%v", states)
		}
	})
}
