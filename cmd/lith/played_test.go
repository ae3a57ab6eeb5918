package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// played is a cluster of one agent that speaks the real wire: one server is its API and
// its agent both, like clusterd --dev on one address. A test says how its tasks go.
type played struct {
	t      *testing.T
	server *httptest.Server
	// play gives the statuses that a task goes through; the next one is sent when the one
	// before was acknowledged. A nil entry waits for a KILL.
	play func(task *mesosv1.TaskInfo) []*mesosv1.TaskStatus

	mu         sync.Mutex
	leaderless bool
	frameworks map[string]*playedFramework
	files      map[string]string // by path and name: /frameworks/F/executors/T/runs/latest/stdout
	tornDown   []string
	ids        int
}

type playedFramework struct {
	info   *mesosv1.FrameworkInfo
	gone   bool
	events chan *scheduler.Event // nil: not connected
	stream string
	tasks  []*playedTask
}

type playedTask struct {
	info *mesosv1.TaskInfo
	task *mesosv1.Task
	next []*mesosv1.TaskStatus
}

const playedAgent = "G-S0"

func playCluster(t *testing.T) *played {
	p := &played{t: t, frameworks: map[string]*playedFramework{}, files: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/redirect", p.redirect)
	mux.HandleFunc("POST /api/v1", p.operate)
	mux.HandleFunc("POST /api/v1/scheduler", p.schedule)
	mux.HandleFunc("/files/download", p.download)
	mux.HandleFunc("/state", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.WriteString(w, `{"flags":{"work_dir":"/var/lib/mesos"}}`); err != nil {
			t.Error(err)
		}
	})
	p.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		p.server.CloseClientConnections()
		p.server.Close()
	})
	return p
}

func (p *played) address() (string, int) {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(p.server.URL, "http://"))
	if err != nil {
		p.t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		p.t.Fatal(err)
	}
	return host, n
}

func (p *played) redirect(w http.ResponseWriter, r *http.Request) {
	if p.leaderless {
		http.Error(w, "No leader elected", http.StatusServiceUnavailable)
		return
	}
	host, _ := p.address()
	w.Header().Set("Location", "//"+net.JoinHostPort(host, "5050"))
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func (p *played) agentInfo() *mesosv1.AgentInfo {
	host, port := p.address()
	return &mesosv1.AgentInfo{
		Hostname: proto.String(host), Port: proto.Int32(int32(port)), Id: &mesosv1.AgentID{Value: proto.String(playedAgent)},
	}
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{
		Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(v)},
		AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")},
	}
}

func playedResources() []*mesosv1.Resource {
	return []*mesosv1.Resource{scalar("cpus", 4), scalar("mem", 1024), {
		Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(),
		Ranges: &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{{Begin: proto.Uint64(31000), End: proto.Uint64(31009)}}},
	}}
}

func (p *played) operate(w http.ResponseWriter, r *http.Request) {
	call := &master.Call{}
	if !p.read(w, r, call) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if call.GetType() != master.Call_GET_STATE {
		http.Error(w, "not played", http.StatusNotImplemented)
		return
	}
	state := &master.Response_GetState{
		GetTasks: &master.Response_GetTasks{}, GetExecutors: &master.Response_GetExecutors{},
		GetFrameworks: &master.Response_GetFrameworks{},
		GetAgents: &master.Response_GetAgents{Agents: []*master.Response_GetAgents_Agent{{
			AgentInfo: p.agentInfo(), Active: proto.Bool(true), Version: proto.String("1.11.0"), TotalResources: playedResources(),
		}}},
	}
	for _, f := range p.frameworks {
		one := &master.Response_GetFrameworks_Framework{
			FrameworkInfo: f.info, Active: proto.Bool(!f.gone), Connected: proto.Bool(f.events != nil), Recovered: proto.Bool(false),
		}
		if f.gone {
			state.GetFrameworks.CompletedFrameworks = append(state.GetFrameworks.CompletedFrameworks, one)
		} else {
			state.GetFrameworks.Frameworks = append(state.GetFrameworks.Frameworks, one)
		}
		for _, t := range f.tasks {
			if f.gone || len(t.next) == 0 {
				state.GetTasks.CompletedTasks = append(state.GetTasks.CompletedTasks, t.task)
			} else {
				state.GetTasks.Tasks = append(state.GetTasks.Tasks, t.task)
			}
		}
	}
	p.write(w, &master.Response{Type: master.Response_GET_STATE.Enum(), GetState: state})
}

func (p *played) read(w http.ResponseWriter, r *http.Request, call proto.Message) bool {
	raw, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(raw, call)
	}
	if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, fmt.Sprint("not a call: ", err), http.StatusBadRequest)
		return false
	}
	return true
}

func (p *played) write(w http.ResponseWriter, m proto.Message) {
	raw, err := proto.Marshal(m)
	if err != nil {
		p.t.Error(err)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	if _, err := w.Write(raw); err != nil {
		p.t.Log(err)
	}
}

func (p *played) schedule(w http.ResponseWriter, r *http.Request) {
	call := &scheduler.Call{}
	if !p.read(w, r, call) {
		return
	}
	if call.GetType() == scheduler.Call_SUBSCRIBE {
		p.subscribe(w, r, call.GetSubscribe().GetFrameworkInfo())
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.frameworks[call.GetFrameworkId().GetValue()]
	switch {
	case f == nil || f.gone:
		http.Error(w, "Framework cannot be found", http.StatusBadRequest)
		return
	case f.stream != r.Header.Get("Mesos-Stream-Id"):
		http.Error(w, "The stream ID didn't match", http.StatusBadRequest)
		return
	}
	p.take(f, call)
	w.WriteHeader(http.StatusAccepted)
}

func (p *played) take(f *playedFramework, call *scheduler.Call) {
	switch call.GetType() {
	case scheduler.Call_ACCEPT:
		for _, op := range call.GetAccept().GetOperations() {
			for _, info := range op.GetLaunch().GetTaskInfos() {
				t := &playedTask{info: info, next: p.play(info), task: &mesosv1.Task{
					Name: info.Name, TaskId: info.GetTaskId(), FrameworkId: f.info.GetId(), AgentId: info.GetAgentId(),
					State: mesosv1.TaskState_TASK_STAGING.Enum(), Resources: info.GetResources(),
				}}
				f.tasks = append(f.tasks, t)
				p.advance(f, t)
			}
		}
	case scheduler.Call_ACKNOWLEDGE:
		for _, t := range f.tasks {
			if t.info.GetTaskId().GetValue() == call.GetAcknowledge().GetTaskId().GetValue() {
				t.next = t.next[1:]
				p.advance(f, t)
			}
		}
	case scheduler.Call_KILL:
		for _, t := range f.tasks {
			if t.info.GetTaskId().GetValue() == call.GetKill().GetTaskId().GetValue() {
				t.next = []*mesosv1.TaskStatus{ended(mesosv1.TaskState_TASK_KILLED, "Command terminated with signal Terminated")}
				p.advance(f, t)
			}
		}
	case scheduler.Call_TEARDOWN:
		f.gone = true
		p.tornDown = append(p.tornDown, f.info.GetId().GetValue())
		p.disconnect(f, "")
	}
}

// advance sends a task's next status; the caller holds the lock.
func (p *played) advance(f *playedFramework, t *playedTask) {
	if len(t.next) == 0 || t.next[0] == nil {
		return
	}
	s := proto.Clone(t.next[0]).(*mesosv1.TaskStatus)
	s.TaskId, s.AgentId, s.Uuid = t.info.GetTaskId(), t.info.GetAgentId(), []byte("0123456789abcdef")
	s.Timestamp = proto.Float64(float64(time.Now().UnixNano()) / 1e9)
	t.task.State, t.task.Statuses = s.State, append(t.task.Statuses, s)
	f.events <- &scheduler.Event{Type: scheduler.Event_UPDATE.Enum(), Update: &scheduler.Event_Update{Status: s}}
}

func (p *played) disconnect(f *playedFramework, why string) {
	if f.events == nil {
		return
	}
	if why != "" {
		f.events <- &scheduler.Event{Type: scheduler.Event_ERROR.Enum(), Error: &scheduler.Event_Error{Message: proto.String(why)}}
	}
	close(f.events)
	f.events = nil
}

func (p *played) subscribe(w http.ResponseWriter, r *http.Request, info *mesosv1.FrameworkInfo) {
	p.mu.Lock()
	p.ids++
	if info.Id == nil {
		info.Id = &mesosv1.FrameworkID{Value: proto.String(fmt.Sprintf("G-%04d", p.ids))}
	}
	f := p.frameworks[info.GetId().GetValue()]
	if f == nil {
		f = &playedFramework{info: info}
		p.frameworks[info.GetId().GetValue()] = f
	}
	p.disconnect(f, "Framework failed over")
	events := make(chan *scheduler.Event, 64)
	f.events, f.stream = events, fmt.Sprint("stream-", p.ids)
	stream := f.stream
	events <- &scheduler.Event{Type: scheduler.Event_SUBSCRIBED.Enum(), Subscribed: &scheduler.Event_Subscribed{
		FrameworkId: info.GetId(), HeartbeatIntervalSeconds: proto.Float64(15),
	}}
	host, _ := p.address()
	events <- &scheduler.Event{Type: scheduler.Event_OFFERS.Enum(), Offers: &scheduler.Event_Offers{Offers: []*mesosv1.Offer{{
		Id: &mesosv1.OfferID{Value: proto.String(fmt.Sprint("O", p.ids))}, FrameworkId: info.GetId(),
		AgentId: &mesosv1.AgentID{Value: proto.String(playedAgent)}, Hostname: proto.String(host), Resources: playedResources(),
		AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")},
	}}}}
	p.mu.Unlock()

	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Mesos-Stream-Id", stream)
	w.WriteHeader(http.StatusOK)
	records := recordio.NewWriter(w)
	for {
		select {
		case <-r.Context().Done():
			return
		case e, ok := <-events:
			if !ok {
				return
			}
			raw, err := proto.Marshal(e)
			if err != nil {
				p.t.Error(err)
				return
			}
			if err := records.Write(raw); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

// download serves stdout and stderr of every task out of files, by the file's name.
func (p *played) download(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	p.mu.Lock()
	text, ok := p.files[path[strings.LastIndexByte(path, '/')+1:]]
	p.mu.Unlock()
	if !ok || !strings.HasPrefix(path, "/var/lib/mesos/slaves/G-S0/frameworks/G-") || !strings.Contains(path, "/runs/container-1/") {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
}

func running() *mesosv1.TaskStatus {
	return &mesosv1.TaskStatus{
		State: mesosv1.TaskState_TASK_RUNNING.Enum(), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(),
		ContainerStatus: &mesosv1.ContainerStatus{ContainerId: &mesosv1.ContainerID{Value: proto.String("container-1")}, NetworkInfos: []*mesosv1.NetworkInfo{{
			IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{IpAddress: proto.String("10.88.1.2")}},
		}}},
	}
}

func ended(state mesosv1.TaskState, message string) *mesosv1.TaskStatus {
	return &mesosv1.TaskStatus{
		State: state.Enum(), Message: proto.String(message), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(),
		ContainerStatus: &mesosv1.ContainerStatus{ContainerId: &mesosv1.ContainerID{Value: proto.String("container-1")}},
	}
}
