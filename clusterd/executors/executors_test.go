package executors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/executor"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/streams"
)

// played answers as the agent would.
type played struct {
	err  error
	who  agent.Caller
	call *executor.Call
	over chan *streams.Stream
}

func (p *played) Subscribe(_ context.Context, who agent.Caller, call *executor.Call, s *streams.Stream) error {
	p.who, p.call = who, call
	if p.err == nil {
		s.Send(streams.NewEvent(&executor.Event{Type: executor.Event_SUBSCRIBED.Enum()}))
		s.Close(nil)
	}
	return p.err
}

func (p *played) Do(_ context.Context, who agent.Caller, call *executor.Call) error {
	p.who, p.call = who, call
	return p.err
}

func (p *played) Disconnected(s *streams.Stream) { p.over <- s }

const (
	ids    = `"framework_id":{"value":"F"},"executor_id":{"value":"e"}`
	uuid   = `AAECAwQFBgcICQoLDA0ODw==`
	update = `{"type":"UPDATE",` + ids + `,"update":{"status":{"task_id":{"value":"t"},"state":"TASK_RUNNING","uuid":"` + uuid + `"}}}`
)

func TestAnswers(t *testing.T) {
	status := func(text string) string {
		return `{"type":"UPDATE",` + ids + `,"update":{"status":{"task_id":{"value":"t"},` + text + `}}}`
	}
	for _, test := range []struct {
		name, method, body, media, accept string
		err                               error
		status                            int
		says                              string
	}{
		{"GET", "GET", "", "application/json", "", nil, 405, ""},
		{"no content type", "POST", update, "", "", nil, 400, "Expecting 'Content-Type' to be present"},
		{"another content type", "POST", update, "text/plain", "", nil, 415, ""},
		{"no JSON", "POST", "{", "application/json", "", nil, 400, "Failed to parse body into executor::Call"},
		{"no framework", "POST", `{"type":"HEARTBEAT","executor_id":{"value":"e"}}`, "application/json", "", nil, 400, "framework_id"},
		{"no type", "POST", `{` + ids + `}`, "application/json", "", nil, 400, "Expecting 'type' to be present"},
		{"no update", "POST", `{"type":"UPDATE",` + ids + `}`, "application/json", "", nil, 400, "Expecting 'update' to be present"},
		{"no subscribe", "POST", `{"type":"SUBSCRIBE",` + ids + `}`, "application/json", "", nil, 400, "Expecting 'subscribe' to be present"},
		{"no uuid", "POST", status(`"state":"TASK_RUNNING"`), "application/json", "", nil, 400, "'status.uuid'"},
		{"a short uuid", "POST", status(`"state":"TASK_RUNNING","uuid":"AAEC"`), "application/json", "", nil, 400, "must have 16 bytes, it has 3"},
		{"a state that is not its own", "POST", status(`"state":"TASK_STAGING","uuid":"` + uuid + `"`), "application/json", "", nil, 400, "TASK_STAGING cannot be an executor's to report"},
		{"the master's source", "POST", status(`"state":"TASK_RUNNING","source":"SOURCE_MASTER","uuid":"` + uuid + `"`), "application/json", "", nil, 400, "SOURCE_EXECUTOR"},
		{"another executor's status", "POST", status(`"state":"TASK_RUNNING","executor_id":{"value":"x"},"uuid":"` + uuid + `"`), "application/json", "", nil, 400, "differs from the caller"},
		{"nobody", "POST", update, "application/json", "", fmt.Errorf("e: %w", agent.ErrExecutorUnknown), 400, "executor cannot be found"},
		{"somebody else", "POST", update, "application/json", "", fmt.Errorf("e: %w", agent.ErrNotTheExecutor), 403, "not this executor"},
		{"not subscribed", "POST", update, "application/json", "", fmt.Errorf("e: %w", agent.ErrNotSubscribed), 403, "not subscribed"},
		{"not recovered", "POST", update, "application/json", "", fmt.Errorf("e: %w", agent.ErrRecovering), 503, "not finished recovery"},
		{"its journal fails", "POST", update, "application/json", "", errors.New("disk full"), 500, "disk full"},
		{"an update", "POST", update, "application/json", "", nil, 202, ""},
		{"a heartbeat", "POST", `{"type":"HEARTBEAT",` + ids + `}`, "application/json", "", nil, 202, ""},
		{"a message", "POST", `{"type":"MESSAGE",` + ids + `,"message":{"data":"aGk="}}`, "application/json", "", nil, 202, ""},
		{"a subscription that wants HTML", "POST", `{"type":"SUBSCRIBE",` + ids + `,"subscribe":{}}`, "application/json", "text/html", nil, 406, ""},
		{"a subscription", "POST", `{"type":"SUBSCRIBE",` + ids + `,"subscribe":{}}`, "application/json", "application/json", nil, 200, `{"type":"SUBSCRIBED"}`},
		{"a subscription of nobody", "POST", `{"type":"SUBSCRIBE",` + ids + `,"subscribe":{}}`, "application/json", "", agent.ErrExecutorUnknown, 400, ""},
		{"a call of the future", "POST", `{"type":"UNKNOWN",` + ids + `}`, "application/json", "", nil, 501, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &played{err: test.err, over: make(chan *streams.Stream, 1)}
			srv := httptest.NewServer(Handler(Config{Agent: p, Budget: httpio.NewBudget(1), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}))
			defer srv.Close()
			req, err := http.NewRequestWithContext(t.Context(), test.method, srv.URL, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range map[string]string{"Content-Type": test.media, "Accept": test.accept, "Authorization": "Bearer secret"} {
				if value != "" {
					req.Header.Set(name, value)
				}
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != test.status || !strings.Contains(string(text), test.says) {
				t.Errorf("%d %s %v, want %d %s", resp.StatusCode, text, err, test.status, test.says)
			}
			if test.status == 200 {
				if _, has := resp.Header["Mesos-Stream-Id"]; has || <-p.over == nil {
					t.Errorf("an executor's stream has an id: %v", resp.Header)
				}
			}
			if test.status < 300 && (p.who.Token != "secret" || !p.who.From.Addr().IsLoopback() || p.who.To.Port() == 0 || p.call.GetExecutorId().GetValue() != "e") {
				t.Errorf("the agent is asked by %v: %v", p.who, p.call)
			}
		})
	}
}

// What arrives may be anything: it is a call that can be looked at, or a refusal.
func FuzzCall(f *testing.F) {
	f.Add([]byte(update), true)
	f.Add([]byte(`{"type":"SUBSCRIBE",`+ids+`,"subscribe":{"unacknowledged_updates":[{"status":{"task_id":{"value":"t"},"state":"TASK_LOST"}}]}}`), true)
	raw, err := proto.Marshal(&executor.Call{
		Type: executor.Call_UPDATE.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String("F")}, ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")},
		Update: &executor.Call_Update{Status: &mesosv1.TaskStatus{TaskId: &mesosv1.TaskID{Value: proto.String("t")}, State: mesosv1.TaskState_TASK_KILLED.Enum()}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, false)
	f.Fuzz(func(t *testing.T, body []byte, js bool) {
		media := httpio.Protobuf
		if js {
			media = httpio.JSON
		}
		call := &executor.Call{}
		if httpio.Decode(media, body, call) != nil || validate(call) != nil {
			return
		}
		if u := call.GetUpdate(); call.GetType() == executor.Call_UPDATE && len(u.GetStatus().GetUuid()) != uuidBytes {
			t.Errorf("an update without a uuid passed: %v", call)
		}
	})
}
