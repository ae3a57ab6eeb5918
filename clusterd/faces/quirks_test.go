package faces

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Clients as they are: each of these tests is one thing that some client in use depends on,
// most of them without knowing. docs/frameworks.md lists them.

// raw subscribes over a plain connection as the oldest clients do: empty credentials, no
// Accept, and a connection that is not to be kept.
func (c *cluster) raw(via string) (header []string, chunks func() string) {
	c.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.nodes[via].api.URL, "http://"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	body := `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"nobody","name":"old"}}}`
	fmt.Fprintf(conn, "POST /api/v1/scheduler HTTP/1.1\r\nHost: master\r\nContent-Type: application/json\r\nConnection: close\r\nAuthorization: Basic Og==\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			c.t.Fatal(err)
		}
		if line = strings.TrimSpace(line); line == "" {
			break
		}
		header = append(header, line)
	}
	return header, func() string {
		size, err := r.ReadString('\n')
		if err != nil {
			c.t.Fatal(err)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 32)
		if err != nil {
			c.t.Fatalf("chunk of %q", size)
		}
		chunk := make([]byte, n+2)
		if _, err := io.ReadFull(r, chunk); err != nil {
			c.t.Fatal(err)
		}
		return string(chunk[:n])
	}
}

func TestClientsThatReadTheStreamByHand(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	c.agent("a1")
	for _, via := range []string{"m1", "a1"} {
		header, next := c.raw(via)
		has := func(line string) bool {
			for _, h := range header {
				if strings.EqualFold(h, line) {
					return true
				}
			}
			return false
		}
		// pymesos: "Response is not chunked"; mesos-go and rxjava compare the type as it stands;
		// who names no type wants JSON.
		if header[0] != "HTTP/1.1 200 OK" || !has("Transfer-Encoding: chunked") || !has("Content-Type: application/json") {
			t.Fatalf("via %s: %q", via, header)
		}
		for _, h := range header {
			if strings.HasPrefix(strings.ToLower(h), "content-length:") {
				t.Errorf("a stream has a length: %s", h)
			}
		}
		// tobilg/mesos-framework takes one record from each chunk; mesos-compose handles an event
		// when the length of the next one has come, and knows strictly the fields of 1.11.
		for i, want := range []scheduler.Event_Type{scheduler.Event_SUBSCRIBED, scheduler.Event_HEARTBEAT, scheduler.Event_OFFERS} {
			length, record, _ := strings.Cut(next(), "\n")
			if n, err := strconv.Atoi(length); err != nil || n != len(record) || strings.Contains(record, "\n") {
				t.Fatalf("via %s, chunk %d: length %q, record %q", via, i, length, record)
			}
			e := &scheduler.Event{}
			if err := (protojson.UnmarshalOptions{AllowPartial: true}).Unmarshal([]byte(record), e); err != nil {
				t.Fatalf("via %s, chunk %d: %v in %s", via, i, err, record)
			}
			if via == "m1" && e.GetType() != want {
				t.Errorf("chunk %d is %s, want %s", i, e.GetType(), want)
			}
		}
	}
}

// mesos-compose declines twice and what it was never offered; it leaves role, reservation
// and allocation out, and asks for 0.0 GPUs. Airflow's provider writes truth values as
// strings and fields that are none.
func TestClientsThatAreCareless(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	c.runs = true
	c.agent("a1")
	s := c.subscribe("a1", "careless")
	call := func(body string) (int, http.Header, string) {
		return c.post("a1", "/api/v1/scheduler", `{"framework_id":{"value":"`+s.id+`"},`+body+`}`, "Content-Type", "application/json", "Mesos-Stream-Id", s.stream)
	}
	offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
	for range 2 {
		status, header, text := call(`"type":"DECLINE","decline":{"offer_ids":[{"value":"` + offer.GetId().GetValue() + `"},{"value":"never"}],"filters":{"refuse_seconds":0}}`)
		// mesos-go takes a body, or the type of one, for an answer of another kind.
		if _, typed := header["Content-Type"]; status != 202 || text != "" || typed {
			t.Errorf("decline: %d %q %v", status, text, header)
		}
	}
	offer = s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
	status, _, text := call(`"type":"ACCEPT","accept":{"Filters":{},"offer_ids":[{"value":"` + offer.GetId().GetValue() + `"}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[{
		"name":"t","task_id":{"value":"t"},"agent_id":{"value":"` + offer.GetAgentId().GetValue() + `"},"command":{"value":"true","shell":"true"},
		"container":{"type":"DOCKER","docker":{"image":"alpine","force_pull_image":"true","privileged":"false"}},
		"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"mem","type":"SCALAR","scalar":{"value":32}},{"name":"gpus","type":"SCALAR","scalar":{"value":0.0}}]}]}}]}`)
	if status != 202 {
		t.Fatalf("accept: %d %s", status, text)
	}
	st := s.until(scheduler.Event_UPDATE).GetUpdate().GetStatus()
	if st.GetState() != mesosv1.TaskState_TASK_RUNNING {
		t.Fatalf("%v", st)
	}
	// and reads the first address of the first network unguarded.
	if st.GetContainerStatus().GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress() == "" {
		t.Errorf("no address in %v", st)
	}
}

// Marathon asks for a task that never was, to see that the master lives.
func TestClientsThatAskForAFakeTask(t *testing.T) {
	c := newCluster(t, open, "m1")
	s := c.subscribe("m1", "marathon")
	c.post("m1", "/api/v1/scheduler", `{"framework_id":{"value":"`+s.id+`"},"type":"RECONCILE","reconcile":{"tasks":[{"task_id":{"value":"fake"},"agent_id":{"value":"fake-agent"}}]}}`,
		"Content-Type", "application/json", "Mesos-Stream-Id", s.stream)
	st := s.until(scheduler.Event_UPDATE).GetUpdate().GetStatus()
	if st.GetState() != mesosv1.TaskState_TASK_LOST || st.GetSource() != mesosv1.TaskStatus_SOURCE_MASTER || st.GetReason() != mesosv1.TaskStatus_REASON_RECONCILIATION ||
		st.GetAgentId().GetValue() != "fake-agent" || st.GetTaskId().GetValue() != "fake" || st.Uuid != nil {
		t.Errorf("%v", st)
	}
}

// What tools do with paths: pymesos posts to /api/v1/operator, mesos-term reads
// /master/state.json, mesos-compose posts to what it reads and adds a segment, command line
// tools want all tasks with limit=-1; and with what they read: pids are split at '@', versions
// at dots into numbers, Go's own client loses its credentials on a redirect to another host,
// so that every node answers by itself.
func TestClientsAndTheirPaths(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	c.agent("a1")
	for _, via := range []string{"m1", "a1"} {
		for _, ask := range []struct{ method, path, body string }{
			{"POST", "/api/v1/operator", `{"type":"GET_VERSION"}`},
			{"GET", "/master/state.json", ""},
			{"GET", "/state.json", ""},
			{"GET", "/master/state", ""},
			{"POST", "/slaves/" + generation + "-S0", ""},
			{"POST", "/tasks/?limit=-1", ""},
			{"GET", "/tasks?limit=-1", ""},
			{"GET", "/master/tasks.json?limit=-1", ""},
		} {
			header := []string{}
			if ask.body != "" {
				header = []string{"Content-Type", "application/json"}
			}
			status, h, text := c.request(ask.method, via, ask.path, ask.body, header...)
			if status != 200 || h.Get("Content-Length") != strconv.Itoa(len(text)) || h.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s via %s: %d, %v: %.80s", ask.method, ask.path, via, status, h, text)
			}
		}
		_, _, text := c.request("GET", via, "/state", "")
		check(t, "/state", text, map[string]any{"pid": "master@10.0.0.1:5050", "leader": "master@10.0.0.1:5050", "version": "1.11.0", "slaves.0.pid": "slave(1)@10.0.0.2:5051"})
		status, h, _ := c.request("GET", via, "/redirect", "")
		if status != 307 || h.Get("Location") != "//10.0.0.1:5050" {
			t.Errorf("redirect via %s: %d %q", via, status, h.Get("Location"))
		}
	}
	agent := agentServer(t, open).URL
	for _, p := range []string{"/state", "/state.json", "/slave(1)/state", "/slave%281%29/state.json"} {
		if status, _, text := fetch(t, agent+p); status != 200 || !strings.Contains(text, `"work_dir":"/var/lib/mesos"`) {
			t.Errorf("agent %s: %d %.80s", p, status, text)
		}
	}
}

// mesos-go v0.0.11 gives its subscription up on any call that fails: each status means what
// it says, and nothing else is answered in its place.
func TestClientsThatGiveUp(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	for _, via := range []string{"m1", "a1"} {
		s := c.subscribe(via, "strict")
		for _, ask := range []struct {
			id, stream string
			want       int
		}{{s.id, s.stream, 202}, {s.id, "", 400}, {s.id, "another", 400}, {"nobody", s.stream, 400}} {
			header := []string{"Content-Type", "application/json"}
			if ask.stream != "" {
				header = append(header, "Mesos-Stream-Id", ask.stream)
			}
			if status, _, text := c.post(via, "/api/v1/scheduler", `{"framework_id":{"value":"`+ask.id+`"},"type":"REVIVE"}`, header...); status != ask.want {
				t.Errorf("via %s, framework %s, stream %q: %d %s", via, ask.id, ask.stream, status, text)
			}
		}
	}
}
