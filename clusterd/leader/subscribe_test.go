package leader

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

const (
	multiRole   = mesosv1.FrameworkInfo_Capability_MULTI_ROLE
	refinement  = mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT
	partitioned = mesosv1.FrameworkInfo_Capability_PARTITION_AWARE
)

func frameworkInfo(change func(*mesosv1.FrameworkInfo), caps ...mesosv1.FrameworkInfo_Capability_Type) *mesosv1.FrameworkInfo {
	info := &mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String("f")}
	for _, cap := range caps {
		info.Capabilities = append(info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: cap.Enum()})
	}
	if change != nil {
		change(info)
	}
	return info
}

// What is wrong with a subscription is said by one ERROR, after which the stream ends, and
// leaves nothing behind.
func TestWrongSubscriptions(t *testing.T) {
	type info = mesosv1.FrameworkInfo
	roles := func(names ...string) func(*info) { return func(i *info) { i.Roles = names } }
	multi := []mesosv1.FrameworkInfo_Capability_Type{multiRole}
	for _, test := range []struct {
		name       string
		caps       []mesosv1.FrameworkInfo_Capability_Type
		change     func(*info)
		suppressed []string
		want       string
	}{
		{"role with MULTI_ROLE", multi, func(i *info) { i.Role = proto.String("a") }, nil, "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable"},
		{"roles without MULTI_ROLE", nil, roles("a"), nil, "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable"},
		{"a role twice", multi, roles("a", "a"), nil, `'FrameworkInfo.roles' contains "a" twice`},
		{"empty role", multi, roles(""), nil, "'FrameworkInfo.roles' is invalid: role must not be empty"},
		{"slash at the end", multi, roles("a/"), nil, `'FrameworkInfo.roles' is invalid: role "a/" begins or ends with a slash or has two in a row`},
		{"dots", multi, roles("a/.."), nil, `'FrameworkInfo.roles' is invalid: role "a/.." has the component "..", which is not allowed`},
		{"star below", multi, roles("a/*"), nil, `'FrameworkInfo.roles' is invalid: role "a/*" has the component "*", which is not allowed`},
		{"dash first", nil, func(i *info) { i.Role = proto.String("-a") }, nil, `'FrameworkInfo.roles' is invalid: role "-a" has a component that begins with '-'`},
		{"white space", multi, roles("a b"), nil, `'FrameworkInfo.roles' is invalid: role "a b" contains white space, a control character, a backslash or what is not UTF-8`},
		{"suppressing a stranger's role", multi, roles("a"), []string{"b"}, `suppressed role "b" is not contained in the list of roles [a]`},
		{"negative failover timeout", nil, func(i *info) { i.FailoverTimeout = proto.Float64(-1) }, nil, "the framework failover timeout (-1 seconds) is not a duration"},
		{"failover timeout is no number", nil, func(i *info) { i.FailoverTimeout = proto.Float64(math.NaN()) }, nil, "the framework failover timeout (NaN seconds) is not a duration"},
		{"failover timeout beyond all times", nil, func(i *info) { i.FailoverTimeout = proto.Float64(1e300) }, nil, "the framework failover timeout (1e+300 seconds) is not a duration"},
		{"id with a slash", nil, func(i *info) { i.Id = &mesosv1.FrameworkID{Value: proto.String("a/b")} }, nil, `framework id "a/b" contains the character '/', which is not allowed`},
		{"filters of a stranger's role", nil, func(i *info) { i.OfferFilters = map[string]*mesosv1.OfferFilters{"x": {}} }, nil, `offer filters are set for role "x", which the framework is not subscribed to`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCell(t)
				defer c.end()
				f := c.subscribeAs("", frameworkInfo(test.change, test.caps...), test.suppressed...)
				if got := f.next(scheduler.Event_ERROR).GetError().GetMessage(); got != test.want {
					t.Errorf("%q, want %q", got, test.want)
				}
				if e, more := <-f.events; more {
					t.Errorf("after the ERROR came %v", e)
				}
				c.m.View(func(s *state.State) {
					if n, _, _ := s.Counts(); n != 0 {
						t.Errorf("%d frameworks", n)
					}
				})
			})
		})
	}
}

func (c *cell) framework(id string) (f state.Framework, ok bool) {
	c.m.View(func(s *state.State) {
		if p, found := s.Framework(state.FrameworkID(id)); found {
			f, ok = *p, true
		}
	})
	return f, ok
}

// A framework that subscribes again may change most of what it is, not whose it is.
func TestSubscribingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		first := c.subscribeAs("p", frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Principal = proto.String("p") }))
		first.next(scheduler.Event_SUBSCRIBED)
		id := first.id
		if want := generation + "-0000"; id != want {
			t.Errorf("id %s, want %s", id, want)
		}
		changed := func(i *mesosv1.FrameworkInfo) {
			i.Id = &mesosv1.FrameworkID{Value: &id}
			i.Principal, i.User, i.Checkpoint = proto.String("p"), proto.String("other"), proto.Bool(true)
			i.Name, i.Hostname, i.FailoverTimeout, i.Roles = proto.String("new"), proto.String("h"), proto.Float64(9), []string{"a", "b"}
		}
		again := c.subscribeAs("p", frameworkInfo(changed, multiRole, partitioned))
		again.next(scheduler.Event_SUBSCRIBED)
		if again.id != id {
			t.Errorf("another id: %s", again.id)
		}
		f, _ := c.framework(id)
		if f.User != "root" || f.Checkpoint || f.Name != "new" || f.Hostname != "h" || f.FailoverTimeout != 9e9 || fmt.Sprint(f.Roles) != "[a b]" || !f.Capabilities.Has(state.CapPartitionAware) {
			t.Errorf("%+v", f)
		}
		thief := c.subscribeAs("q", frameworkInfo(func(i *mesosv1.FrameworkInfo) { changed(i); i.Principal = proto.String("q") }, multiRole))
		if got, want := thief.next(scheduler.Event_ERROR).GetError().GetMessage(), `Framework `+id+`: the principal "p" cannot be changed to "q"`; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if err := again.do(&scheduler.Call{Type: scheduler.Call_REVIVE.Enum()}); err != nil {
			t.Errorf("the owner lost its stream to the thief: %v", err)
		}
		// An id that nobody knows here outlived the cluster that gave it.
		old := c.subscribe("g", "some-older-cluster-0007")
		old.next(scheduler.Event_SUBSCRIBED)
		if old.id != "some-older-cluster-0007" {
			t.Errorf("id %s", old.id)
		}
	})
}

// How long a framework may stay away, and what becomes of its tasks when that is over.
func TestFailoverTimeout(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout float64
		plain   bool
		stays   time.Duration
	}{
		{"none given", 0, true, 0},
		{"as long as it says", 30, true, 30 * time.Second},
		{"lost by our doing", 0, false, time.Minute},
		{"lost by our doing, and it gave more", 3600, false, time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCell(t)
				defer c.end()
				a := c.agent("n1")
				defer a.conn.Close()
				a.attach("n1")
				f := c.subscribeAs("", frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.FailoverTimeout = &test.timeout }))
				f.next(scheduler.Event_SUBSCRIBED)
				f.launch(f.offer(), "t", nil)
				run := until(a, (*agentwire.FromMaster).GetRun)
				c.l.Disconnected(f.stream.ID(), test.plain)
				if test.stays > 0 {
					time.Sleep(test.stays - tickInterval)
					if got, ok := c.framework(f.id); !ok || got.Connected {
						t.Fatalf("before the timeout: %v, %v", got.Connected, ok)
					}
				}
				if k := until(a, (*agentwire.FromMaster).GetKill); k.GetContainerId() != run.GetContainerId() {
					t.Errorf("kill %v", k)
				}
				if _, ok := c.framework(f.id); ok {
					t.Error("it is still there")
				}
				a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_KILLED)
				until(a, (*agentwire.FromMaster).GetForget)
				again := c.subscribe("f", f.id)
				if e := again.next(scheduler.Event_ERROR); e.GetError().GetMessage() != "Framework has been removed" {
					t.Errorf("%v", e)
				}
			})
		})
	}
}

// Which form of an offer a framework understands.
func TestOffersByCapability(t *testing.T) {
	for _, test := range []struct {
		name string
		caps []mesosv1.FrameworkInfo_Capability_Type
		// of the offer's cpus
		role, allocated, stack string
	}{
		{"old", nil, "*", "", ""},
		{"several roles", []mesosv1.FrameworkInfo_Capability_Type{multiRole}, "*", "eng", ""},
		{"stacked reservations", []mesosv1.FrameworkInfo_Capability_Type{multiRole, refinement}, "", "eng", ""},
	} {
		for _, reserved := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, ", reserved: ", reserved), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCell(t)
					defer c.end()
					a := c.agent("n1")
					defer a.conn.Close()
					if reserved {
						a.role = "eng"
					}
					a.attach("n1")
					f := c.subscribeAs("", frameworkInfo(func(i *mesosv1.FrameworkInfo) {
						if len(test.caps) > 0 {
							i.Roles = []string{"eng"}
						} else {
							i.Role = proto.String("eng")
						}
					}, test.caps...))
					f.next(scheduler.Event_SUBSCRIBED)
					role, stack := test.role, ""
					if reserved {
						if role == "" {
							stack = "STATIC eng"
						} else {
							role = "eng"
						}
					}
					offer := f.offer()
					if offer.GetAllocationInfo().GetRole() != test.allocated {
						t.Errorf("offer allocated to %q", offer.GetAllocationInfo().GetRole())
					}
					for _, r := range offer.GetResources() {
						have := ""
						for _, x := range r.GetReservations() {
							have += x.GetType().String() + " " + x.GetRole()
						}
						var plain string
						if r.Role != nil {
							plain = *r.Role
						}
						if plain != role || have != stack || r.GetAllocationInfo().GetRole() != test.allocated {
							t.Errorf("%v: role %q, stack %q, want %q, %q", r, plain, have, role, stack)
						}
					}
					if offer.GetHostname() != "n1" || offer.GetUrl().GetScheme() != "http" || offer.GetUrl().GetPath() != "/slave(1)" ||
						offer.GetUrl().GetAddress().GetPort() != 5051 || offer.GetUrl().GetAddress().GetIp() != "10.0.0.2" || offer.GetAgentId().GetValue() != a.id ||
						offer.GetFrameworkId().GetValue() != f.id {
						t.Errorf("offer %v", offer)
					}
					// What was offered can be used in the form in which it was offered.
					f.launch(offer, "t", func(t *mesosv1.TaskInfo) { t.Resources = offer.GetResources() })
					until(a, (*agentwire.FromMaster).GetRun)
				})
			})
		}
	}
}

func TestSubscribedEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		f := c.subscribe("f", "")
		e := f.next(scheduler.Event_SUBSCRIBED).GetSubscribed()
		m := e.GetMasterInfo()
		if e.GetHeartbeatIntervalSeconds() != 15 || e.GetFrameworkId().GetValue() != generation+"-0000" {
			t.Errorf("%v", e)
		}
		if m.GetId() != generation || m.GetPid() != "master@10.0.0.1:5050" || m.GetHostname() != "10.0.0.1" || m.GetPort() != 5050 || m.GetVersion() != "1.11.0" ||
			m.GetIp() != 0x0100000a || m.GetAddress().GetIp() != "10.0.0.1" || m.GetAddress().GetHostname() != "10.0.0.1" || m.GetAddress().GetPort() != 5050 {
			t.Errorf("master %v", m)
		}
		var caps []string
		for _, c := range m.GetCapabilities() {
			caps = append(caps, c.GetType().String())
		}
		if fmt.Sprint(caps) != "[AGENT_UPDATE AGENT_DRAINING QUOTA_V2]" {
			t.Errorf("capabilities %v", caps)
		}
	})
}

// Clients refuse records over 4 MiB: many offers come in several records, each offer once.
func TestManyOffersAreSplit(t *testing.T) {
	var list []*mesosv1.Offer
	for i := range 5000 {
		list = append(list, &mesosv1.Offer{
			Id: &mesosv1.OfferID{Value: proto.String(fmt.Sprint("o", i))}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")},
			AgentId: &mesosv1.AgentID{Value: proto.String("a")}, Hostname: proto.String("h"),
			Resources:  []*mesosv1.Resource{scalar("cpus", 1), scalar("mem", 1), portRange(31000, 32000)},
			Attributes: []*mesosv1.Attribute{{Name: proto.String("x"), Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: proto.String(strings.Repeat("\x01", 500))}}},
		})
	}
	seen := 0
	events := offersEvents(list)
	for _, e := range events {
		m := e.Message().(*scheduler.Event)
		for _, o := range m.GetOffers().GetOffers() {
			if want := fmt.Sprint("o", seen); o.GetId().GetValue() != want {
				t.Fatalf("offer %s where %s is due", o.GetId().GetValue(), want)
			}
			seen++
		}
		for name, size := range map[string]int{"protobuf": proto.Size(m), "JSON": len(mesosjson.Marshal(m))} {
			if size > 4<<20 {
				t.Errorf("a record of %d bytes in %s", size, name)
			}
		}
	}
	if seen != len(list) || len(events) < 2 {
		t.Errorf("%d offers in %d records", seen, len(events))
	}
}

// A SUBSCRIBE whose caller has left, and come back by another way meanwhile, does not end
// the stream that lives.
func TestALateSubscriptionEndsNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		ctx, leave := context.WithCancel(t.Context())
		late := streams.New("late", streams.Protobuf, streams.DefaultMaxBytes)
		info := frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Id = &mesosv1.FrameworkID{Value: proto.String(f.id)} })
		asked := make(chan error, 1)
		c.l.post(t.Context(), func() { // in one step of the loop, so that it is not found out before
			c.l.subscribe(ctx, "", wish{info: info}, late, func(err error) { asked <- err })
			leave()
		})
		if err := <-asked; err == nil {
			t.Error("it was answered")
		}
		time.Sleep(time.Minute)
		select {
		case e := <-f.events:
			t.Errorf("the stream that lives brings %v", e)
		default:
		}
		if fw, ok := c.framework(f.id); !ok || !fw.Connected {
			t.Errorf("the framework is known %v, connected %v", ok, fw.Connected)
		}
	})
}
