package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"google.golang.org/protobuf/proto"
)

// player is a framework on the real client: it launches tasks with most of the
// offers that it gets, and writes down what it did and heard.
type player struct {
	w      *world
	name   string
	client *client.Client
	http   *http.Transport
	rng    *rand.Rand

	mu         sync.Mutex
	resting    bool
	launches   int
	accepted   int
	refused    int
	unclear    int
	subscribed int
	ids        map[string]bool // framework ids it was given
	latencies  []time.Duration
}

// web is an HTTP client of one host on the simulated wire.
func (w *world) web(from string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return w.net.dial(ctx, from, "", host, "api")
		},
		DisableCompression: true, MaxIdleConnsPerHost: 8,
	}
}

func newPlayer(w *world, name string) *player {
	p := &player{w: w, name: name, http: w.web(name), rng: rand.New(rand.NewPCG(w.rng.Uint64(), 4)), ids: map[string]bool{}}
	var urls []string
	for _, m := range w.all {
		urls = append(urls, "http://"+m+":5050")
	}
	c, err := client.New(client.Config{
		Masters: urls, HTTP: &http.Client{Transport: p.http}, Protobuf: true,
		Framework: &mesosv1.FrameworkInfo{
			User: proto.String("root"), Name: proto.String(name),
			Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_PARTITION_AWARE.Enum()}},
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	p.client = c
	return p
}

func (p *player) live(ctx context.Context) {
	p.w.ended.Go(func() {
		defer p.http.CloseIdleConnections()
		if err := p.client.Run(ctx, p.hear); err != nil && !errors.Is(err, context.Canceled) {
			p.w.t.Errorf("framework %s: %v", p.name, err)
		}
	})
}

func (p *player) rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resting = true
}

func (p *player) hear(ctx context.Context, e *scheduler.Event) error {
	switch e.GetType() {
	case scheduler.Event_SUBSCRIBED:
		p.mu.Lock()
		p.subscribed++
		p.ids[e.GetSubscribed().GetFrameworkId().GetValue()] = true
		p.mu.Unlock()
	case scheduler.Event_OFFERS:
		var left []*mesosv1.OfferID
		launched := 0
		for _, o := range e.GetOffers().GetOffers() {
			p.w.offers.saw(o.GetId().GetValue(), o.GetAgentId().GetValue())
			if launched < 5 && p.wants() {
				launched++
				if err := p.launch(ctx, o); err != nil {
					return err
				}
				continue
			}
			left = append(left, o.GetId())
		}
		if len(left) > 0 {
			return lostOnly(p.client.Decline(ctx, left, p.refusal()))
		}
	case scheduler.Event_UPDATE:
		p.w.ops.heardOf(e.GetUpdate().GetStatus())
	}
	return nil
}

// refusal is for how many seconds it wants nothing of what it declines.
func (p *player) refusal() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resting {
		return 600
	}
	return 3
}

func (p *player) wants() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.resting && p.rng.IntN(3) > 0
}

func (p *player) launch(ctx context.Context, o *mesosv1.Offer) error {
	p.mu.Lock()
	id := fmt.Sprintf("%s-%d", p.name, p.launches)
	p.launches++
	p.mu.Unlock()
	t := &mesosv1.TaskInfo{
		Name: proto.String(id), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: o.GetAgentId(),
		Command:   &mesosv1.CommandInfo{Value: proto.String("true")},
		Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 32)},
	}
	p.w.ops.launching(id)
	began := time.Now()
	err := p.client.Accept(ctx, []*mesosv1.OfferID{o.GetId()}, []*mesosv1.Offer_Operation{{
		Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{t}},
	}}, 5)
	p.mu.Lock()
	var refused *client.StatusError
	switch {
	case err == nil:
		p.accepted++
		p.latencies = append(p.latencies, time.Since(began))
	case errors.As(err, &refused) && refused.Code < 500, errors.Is(err, client.ErrNotSubscribed):
		p.refused++
	default:
		p.unclear++
	}
	p.mu.Unlock()
	if err == nil {
		p.w.ops.launched(id)
	}
	return lostOnly(err)
}

// lostOnly lets Run subscribe again where a stream was lost, and go on elsewhere.
func lostOnly(err error) error {
	if errors.Is(err, client.ErrStreamLost) {
		return err
	}
	return nil
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(v)}}
}

// reader asks any node for all tasks, again and again.
func (w *world) reader(ctx context.Context, number int) {
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 5))
	transport := w.web(fmt.Sprint("reader", number))
	web := &http.Client{Transport: transport}
	body, err := proto.Marshal(&master.Call{Type: master.Call_GET_TASKS.Enum()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.ended.Go(func() {
		defer transport.CloseIdleConnections()
		for sleep(ctx, time.Duration(rng.Int64N(int64(3*beat)))) == nil {
			call := w.ops.reading()
			seen, err := readTasks(ctx, web, w.names[rng.IntN(len(w.names))], body)
			if err != nil {
				w.net.counts.add("reads not answered")
				transport.CloseIdleConnections()
				continue
			}
			w.ops.read(number, call, seen)
		}
	})
}

func readTasks(ctx context.Context, web *http.Client, node string, body []byte) (map[string]step, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+node+":5050/api/v1", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Accept", "application/x-protobuf")
	resp, err := web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d: %s", resp.StatusCode, raw)
	}
	answer := &master.Response{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, answer); err != nil {
		return nil, err
	}
	seen := map[string]step{}
	for _, t := range answer.GetGetTasks().GetCompletedTasks() {
		seen[t.GetTaskId().GetValue()] = ended
	}
	for _, t := range answer.GetGetTasks().GetUnreachableTasks() {
		seen[t.GetTaskId().GetValue()] = -1
	}
	for _, t := range answer.GetGetTasks().GetTasks() {
		switch t.GetState() {
		case mesosv1.TaskState_TASK_STAGING:
			seen[t.GetTaskId().GetValue()] = staging
		case mesosv1.TaskState_TASK_RUNNING:
			seen[t.GetTaskId().GetValue()] = running
		default:
			seen[t.GetTaskId().GetValue()] = ended
		}
	}
	return seen, nil
}
