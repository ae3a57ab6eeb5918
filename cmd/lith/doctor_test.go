package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/node"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// wellNode is a node that nothing is wrong with.
func wellNode(name string) nodeFacts {
	return nodeFacts{
		name: name, master: true, asked: noon,
		health: node.Health{
			Name: name, Kernel: "6.12", Version: "1", Time: noon, Clock: node.Clock{Synced: true, Source: "ntp"}, CertificateEnds: noon.Add(20 * time.Hour),
			Status: node.ClusterStatus{Role: "master", Leader: "n1", Term: 3, Votes: true, Summary: "n1 leads; 0 tasks run here"},
		},
		services: []node.Service{{Name: "clusterd", State: "running", Since: noon.Add(-time.Hour)}, {Name: "isolated", State: "running", Since: noon.Add(-time.Hour)}},
		memory:   node.Memory{TotalBytes: 100, AvailableBytes: 60},
		nics:     []node.NIC{{Name: "eth0", Carrier: true}},
	}
}

func wellCluster() facts {
	return facts{
		cluster: "demo", leader: "n1", nodes: []nodeFacts{wellNode("n1"), wellNode("n2"), wellNode("n3")},
		state: &master.Response_GetState{
			GetAgents: &master.Response_GetAgents{Agents: []*master.Response_GetAgents_Agent{{Active: ptr(true), AgentInfo: &mesosv1.AgentInfo{Hostname: ptr("n1")}}}},
			GetTasks:  &master.Response_GetTasks{Tasks: []*mesosv1.Task{{State: mesosv1.TaskState_TASK_RUNNING.Enum()}, {State: mesosv1.TaskState_TASK_FINISHED.Enum()}}},
		},
	}
}

func TestDiagnosisOfAWellCluster(t *testing.T) {
	d := diagnose(wellCluster())
	if d.Wrong+d.Warnings != 0 || d.Checks < 15 {
		t.Errorf("%+v", d)
	}
	var out strings.Builder
	if err := d.print(&out, false); err != nil || !strings.Contains(out.String(), "demo: nothing is wrong, after ") || !strings.Contains(out.String(), "all 3 answer, 2 are needed, n1 leads") {
		t.Errorf("%v\n%s", err, out.String())
	}
	out.Reset()
	var read diagnosis
	if err := d.print(&out, true); err != nil || json.Unmarshal([]byte(out.String()), &read) != nil || read.Checks != d.Checks {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// Each fault alone is found, graded, and named in words that say what to do.
func TestDiagnosisNamesFaults(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(f *facts)
		grade string
		about string
		says  []string
	}{
		"a machine is off":  {func(f *facts) { f.nodes[2].err = errors.New("no route to host") }, gradeWrong, "n3", []string{"does not answer: no route to host", "unreachable", "console"}},
		"a machine boots":   {func(f *facts) { f.young = true; f.nodes[2].err = errors.New("refused") }, gradeWarning, "n3", []string{"does not answer yet", "booting"}},
		"one master fewer":  {func(f *facts) { f.nodes[2].err = errors.New("x") }, gradeWarning, "masters", []string{"2 of 3 masters answer, 2 are needed", "None of them may be lost", "Bring back n3"}},
		"one votes not yet": {func(f *facts) { f.nodes[2].health.Status.Votes = false }, gradeWarning, "masters", []string{"n3 has no vote yet, 2 are needed", "None of them may be lost", "reboot no other master before"}},
		"one is off and one votes not yet": {func(f *facts) {
			f.nodes = append(f.nodes, wellNode("n4"), wellNode("n5"))
			f.nodes[4].err, f.nodes[3].health.Status.Votes = errors.New("x"), false
		}, gradeWarning, "masters", []string{"4 of 5 masters answer, 3 are needed", "None of them may be lost", "Bring back n5"}},
		"no majority": {func(f *facts) {
			for i := range 2 {
				f.nodes[i].err = errors.New("x")
			}
			f.nodes[2].health.Status = node.ClusterStatus{Role: "master", Summary: "waiting for 2 of 3 masters: [n1 n2] not heard"}
		}, gradeWrong, "masters", []string{"1 of 3 masters answer, 2 are needed", "What runs goes on", "Bring back n1, n2"}},
		"no leader": {func(f *facts) {
			for i := range f.nodes {
				f.nodes[i].health.Status.Leader, f.nodes[i].health.Status.Summary = "", "promised to another attempt"
			}
		}, gradeWrong, "masters", []string{"no leader: promised to another attempt", "Nothing new starts"}},
		"two leaders named": {func(f *facts) { f.nodes[2].health.Status.Leader = "n2" }, gradeWarning, "masters", []string{"different leaders"}},
		"a twin":            {func(f *facts) { f.nodes[1].health.Status.Summary = "n2 has stopped voting: another machine named n2" }, gradeWrong, "n2", []string{"has stopped voting", "Switch off"}},
		"another machine": {func(f *facts) {
			f.nodes[0].health.Status.Held = []node.Held{{Master: "n3", Hardware: "other", Known: "before"}}
		}, gradeWrong, "masters", []string{"answers as n3", "lith nodes admit n3"}},
		"no document":         {func(f *facts) { f.nodes[1].health = node.Health{Waiting: []string{"fw_cfg: no node.json"}} }, gradeWrong, "n2", []string{"no node document: fw_cfg: no node.json"}},
		"a clock hours away":  {func(f *facts) { f.nodes[1].health.Time = noon.Add(3 * time.Hour) }, gradeWrong, "n2", []string{"clock is 3h0m0s away", "No task, agent or framework is removed"}},
		"a clock a bit away":  {func(f *facts) { f.nodes[1].health.Time = noon.Add(-20 * time.Second) }, gradeWarning, "n2", []string{"clock is 20s away"}},
		"no time server":      {func(f *facts) { f.nodes[1].health.Clock = node.Clock{Source: "rtc"} }, gradeWarning, "n2", []string{"follows no time server (source: rtc)"}},
		"a certificate ended": {func(f *facts) { f.nodes[1].health.CertificateEnds = noon.Add(-time.Minute) }, gradeWrong, "n2", []string{"certificate ended 1m0s ago"}},
		"a certificate ends":  {func(f *facts) { f.nodes[1].health.CertificateEnds = noon.Add(time.Minute) }, gradeWarning, "n2", []string{"not renewed"}},
		"no certificate":      {func(f *facts) { f.nodes[1].health.CertificateEnds = time.Time{} }, gradeWrong, "n2", []string{"no certificate yet"}},
		"a program is down": {func(f *facts) {
			f.nodes[1].services[1] = node.Service{Name: "isolated", State: "backoff", LastExit: "exit status 2"}
		}, gradeWrong, "n2", []string{"isolated is not running (backoff, last exit: exit status 2)", "Its tasks go on", "logs isolated"}},
		"a program came back": {func(f *facts) {
			f.nodes[1].services[0] = node.Service{Name: "clusterd", State: "running", Restarts: 2, LastExit: "killed", Since: noon.Add(-time.Minute)}
		}, gradeWarning, "n2", []string{"clusterd was started again 1m0s ago (2 restarts, last exit: killed)"}},
		"memory":           {func(f *facts) { f.nodes[1].memory.AvailableBytes = 4 }, gradeWarning, "n2", []string{"only 4 % of its memory"}},
		"no cable":         {func(f *facts) { f.nodes[1].nics[0].Carrier = false }, gradeWrong, "n2", []string{"no network card has a carrier"}},
		"a crash":          {func(f *facts) { f.nodes[1].crash = "record 1\nKernel panic - not syncing: x\n" }, gradeWarning, "n2", []string{"crashed before this boot: Kernel panic", "logs crash"}},
		"an API":           {func(f *facts) { f.nodes[1].api = "503" }, gradeWrong, "n2", []string{"Mesos API does not answer: 503"}},
		"other images":     {func(f *facts) { f.nodes[1].health.Version = "2" }, gradeWarning, "cluster", []string{"different images: 1 on n1, n3; 2 on n2"}},
		"an agent is lost": {func(f *facts) { f.state.GetAgents.Agents[0].Active = ptr(false) }, gradeWrong, "cluster", []string{"1 agent is not attached", "unreachable"}},
		"tasks unheard":    {func(f *facts) { f.state.GetTasks.UnreachableTasks = []*mesosv1.Task{{}, {}} }, gradeWarning, "cluster", []string{"2 tasks are on nodes that are not heard"}},
		"a framework is away": {func(f *facts) {
			f.state.GetFrameworks = &master.Response_GetFrameworks{Frameworks: []*master.Response_GetFrameworks_Framework{{FrameworkInfo: &mesosv1.FrameworkInfo{Name: ptr("marathon")}, Connected: ptr(false)}}}
		}, gradeWarning, "cluster", []string{"1 framework is not connected: marathon", "failover timeout"}},
		"the API is silent": {func(f *facts) { f.state, f.apiErr = nil, errors.New("503") }, gradeWrong, "cluster", []string{"did not answer: 503"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := wellCluster()
			test.spoil(&f)
			var out strings.Builder
			d := diagnose(f)
			if err := d.print(&out, false); err != nil {
				t.Fatal(err)
			}
			for _, found := range d.Findings {
				all := strings.Join([]string{found.What, found.Means, found.Do}, " ")
				ok := found.Grade == test.grade && found.About == test.about
				for _, want := range test.says {
					ok = ok && strings.Contains(all, want)
				}
				if ok {
					return
				}
			}
			t.Errorf("not found, in:\n%s", out.String())
		})
	}
}

// The command asks real doors, and its exit code says whether something is wrong.
func TestDoctorAsksEverybody(t *testing.T) {
	tg, _ := machines(t, map[string][]node.Held{"n1": {{Master: "n3", Hardware: "other", Known: "before"}}})
	tg.nodes[1].node = "http://127.0.0.1:1" // is off
	for i := range tg.nodes {
		tg.nodes[i].Master = true
	}
	d := diagnose(tg.examine(t.Context(), time.Now))
	var out strings.Builder
	if err := d.print(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"answers as n3", "n2       its own side (port 5053) does not answer", "its API did not answer"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if r := lith(t.Context(), "doctor", "--api", playCluster(t).server.URL); r.code != 0 || !strings.Contains(r.out, "nothing is wrong") {
		t.Errorf("doctor of a played cluster: code %d, %v\n%s%s", r.code, r.err, r.out, r.errOut)
	}
}

// A machine that waits for an operator gets no vote by itself, and nobody says that it will.
func TestAHeldMachineIsNotWaitedFor(t *testing.T) {
	f := wellCluster()
	f.nodes[2].health.Status.Votes = false
	f.nodes[0].health.Status.Held = []node.Held{{Master: "n3", Hardware: "other", Known: "before"}}
	f.nodes[1].health.Status.Votes, f.nodes[1].health.Status.Summary = false, "n2 has stopped voting: another machine named n2"
	for _, found := range diagnose(f).Findings {
		if strings.Contains(found.Do, "It comes by itself within seconds") || found.About == "masters" && found.Grade == gradeOK {
			t.Errorf("%+v", found)
		}
	}
}
