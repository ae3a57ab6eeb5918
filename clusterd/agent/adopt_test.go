package agent

import (
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

func (m *playedMaster) lead(generation string) {
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Hello{Hello: &agentwire.MasterHello{Protocol: 1, Name: "m1", Generation: generation, Leading: true}}})
}

// All masters forgot everything. The agent does not obey the newborn cluster before that
// is higher than what it obeyed, then tells it all; nothing that runs is touched.
func TestAgentOutlivesItsCluster(t *testing.T) {
	k := startKeeper(t)
	dir := t.TempDir()
	n := startNode(t, dir, k)
	m := n.master(1, 7)
	m.attach("old-S1")
	m.lead("old")
	framework, err := proto.Marshal(&mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String("a framework"), Roles: []string{"web"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2", "c3"} {
		info, err := proto.Marshal(&mesosv1.TaskInfo{Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("task-" + id)}, AgentId: &mesosv1.AgentID{Value: proto.String("old-S1")}})
		if err != nil {
			t.Fatal(err)
		}
		m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: &agentwire.Run{ContainerId: id, FrameworkId: "old-0000", Role: "web", FrameworkInfo: framework, TaskInfo: info}}})
		k.request()
		k.event(id, keeper.Container_RUNNING, 1)
		m.ack(id, m.update(mesosv1.TaskState_TASK_STARTING))
		if st := m.update(mesosv1.TaskState_TASK_RUNNING); id != "c2" {
			m.ack(id, st)
		}
	}
	m.kill("c3")
	k.request()
	n.stop() // the program is started again meanwhile, and its journal was written anew
	n = startNode(t, dir, k)

	newborn := n.master(1, 9) // as high as the old one, of another generation
	if hello := newborn.read().GetHello(); hello.GetHeight() != 1 || hello.GetGeneration() != "old" {
		t.Fatalf("refused with %v", hello)
	}
	newborn.height, newborn.term = 2, 1
	newborn.lead("new")
	at := newborn.read().GetAttach()
	if at.GetWhole() || at.GetAgentId() != "old-S1" {
		t.Fatalf("attached as %v", at)
	}
	newborn.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Refused{Refused: &agentwire.Refused{Reason: "unknown", Report: true}}})
	at = newborn.read().GetAttach()
	if !at.GetWhole() || at.GetSubnet() != "10.88.1.0/24" || len(at.GetHeld()) != 3 {
		t.Fatalf("told %v", at)
	}
	for _, h := range at.GetHeld() {
		f := &mesosv1.FrameworkInfo{}
		if err := proto.Unmarshal(h.GetFrameworkInfo(), f); err != nil || f.GetName() != "a framework" || h.GetRole() != "web" || len(h.GetTaskInfo()) == 0 {
			t.Errorf("held %v, %v", h, err)
		}
		if killed := h.GetContainerId() == "c3"; h.GetKillRequested() != killed || h.GetState() != int32(mesosv1.TaskState_TASK_RUNNING) {
			t.Errorf("held %v", h)
		}
	}
	newborn.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Attached{Attached: &agentwire.Attached{AgentId: "old-S1", Sequence: at.GetSequence()}}})
	// Also what every framework had acknowledged is told: this cluster has not heard it.
	reasons := map[string]mesosv1.TaskStatus_Reason{}
	for range 3 {
		u := newborn.read().GetUpdate()
		st := &mesosv1.TaskStatus{}
		if err := proto.Unmarshal(u.GetStatus(), st); err != nil || st.GetState() != mesosv1.TaskState_TASK_RUNNING {
			t.Fatalf("update %v, %v", u, err)
		}
		if ip := st.GetContainerStatus().GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress(); ip != "10.88.1.2" {
			t.Errorf("%s at %s", u.GetContainerId(), ip)
		}
		reasons[u.GetContainerId()] = st.GetReason()
	}
	if v, err := n.agent.View(t.Context()); err != nil || v.Generation != "new" || v.Height != 2 || v.Term != 1 || v.Leader != "m1" {
		t.Errorf("it shows %+v, %v", v, err)
	}
	if reasons["c1"] != mesosv1.TaskStatus_REASON_AGENT_REREGISTERED || reasons["c2"] == mesosv1.TaskStatus_REASON_AGENT_REREGISTERED {
		t.Errorf("reasons %v", reasons)
	}
	for {
		select {
		case r := <-k.requests:
			if r.GetKill().GetContainerId() != "c3" && r.GetKill() != nil || r.GetLaunch() != nil {
				t.Errorf("the keeper was asked %v", r)
			}
			continue
		default:
		}
		break
	}
}

// The leader was greeted anew while the first Attach was on its way: until the newest is
// answered this agent has no name to run anything under, and is told it all again then.
func TestNothingIsRunBeforeTheAttachIsAnswered(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	first := m.read().GetAttach()
	m.height = 2
	m.lead("g")
	second := m.read().GetAttach()
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Attached{Attached: &agentwire.Attached{AgentId: "S1", Sequence: first.GetSequence()}}})
	m.run("c1")
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Attached{Attached: &agentwire.Attached{AgentId: "S1", Sequence: second.GetSequence()}}})
	m.run("c2")
	if l := k.request().GetLaunch(); l.GetContainerId() != "c2" || l.GetAgentId() != "S1" {
		t.Errorf("launched %v", l)
	}
}
