package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// serviceSpec is an HTTP task that the supervisor keeps alive for as long as it lives.
type serviceSpec struct {
	Name  string `json:"name"`
	Image string `json:"image"` // as the machines know it
}

// serviceAnswer is the outcome of asking for a service.
type serviceAnswer struct {
	URL   string `json:"url"`
	Host  string `json:"host"` // the agent's address on the LAN
	Error string `json:"error,omitempty"`
}

// serviceStart is how long a service may take to answer for the first time, the pull of
// its image included.
const serviceStart = 2 * time.Minute

// serveService starts a service and answers when its URL does.
func (s *supervisor) serveService(life context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		var spec serviceSpec
		if err := json.NewDecoder(io.LimitReader(req.Body, 64<<10)).Decode(&spec); err != nil || spec.Name == "" || spec.Image == "" {
			http.Error(w, "a service has a name and an image", http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		c, doors := s.cluster, s.doors
		s.mu.Unlock()
		if c == nil {
			http.Error(w, "the cluster is not started yet", http.StatusServiceUnavailable)
			return
		}
		k, err := newKeeper(c, doors, spec)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if !s.startService(life, spec, k) {
			http.Error(w, "the cluster is being ended", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(req.Context(), serviceStart)
		defer cancel()
		answer, err := k.firstAnswer(ctx)
		if err != nil {
			answer.Error = err.Error()
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// startService begins to keep a service, unless the supervisor waits for the services to
// end already.
func (s *supervisor) startService(life context.Context, spec serviceSpec, k *serviceKeeper) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.services.Go(func() {
		if err := k.run(life); err != nil && life.Err() == nil {
			s.add(event{Kind: eventTrouble, Text: "service " + spec.Name + ": " + err.Error()})
		}
	})
	return true
}

// serviceKeeper is a framework with one task: when it ends, the next one is started.
type serviceKeeper struct {
	spec   serviceSpec
	tasks  *client.Launcher
	first  chan serviceAnswer
	failed chan error
	url    string       // on the host; the same for all lives
	onLAN  atomic.Value // string: where the present life answers, "" between two
}

func newKeeper(c *cluster.Cluster, doors cluster.Doors, spec serviceSpec) (*serviceKeeper, error) {
	framework, err := client.New(client.Config{
		Masters: c.APIs(), HTTP: c.Client(),
		Framework: frameworkInfo("service-" + spec.Name),
	})
	if err != nil {
		return nil, err
	}
	k := &serviceKeeper{
		spec: spec, tasks: client.NewLauncher(framework, nil),
		first: make(chan serviceAnswer, 1), failed: make(chan error, 1),
	}
	k.onLAN.Store("")
	at, err := c.OpenService(doors, func() string { return k.onLAN.Load().(string) })
	if err != nil {
		return nil, err
	}
	k.url = "http://" + at + "/"
	return k, nil
}

func frameworkInfo(name string) *mesosv1.FrameworkInfo {
	return &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String(name), Roles: []string{"*"}, FailoverTimeout: proto.Float64(60),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
	}
}

// run keeps the service alive until ctx ends.
func (k *serviceKeeper) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- k.tasks.Run(ctx) }()
	err := k.keep(ctx)
	cancel()
	if runErr := <-ended; err == nil || errors.Is(err, context.Canceled) {
		err = runErr
	}
	k.failed <- err
	return err
}

// pauseAfterEnd keeps a service that ends at once from being started in a storm.
const pauseAfterEnd = time.Second

func (k *serviceKeeper) keep(ctx context.Context) error {
	for life := 1; ; life++ {
		id := k.spec.Name + "." + strconv.Itoa(life)
		if err := k.tasks.Add(ctx, serviceTask(id, k.spec)); err != nil {
			return err
		}
		now, err := k.tasks.Wait(ctx, id, client.Running)
		if err == nil {
			k.announce(ctx, now)
			_, err = k.tasks.Wait(ctx, id, client.Ended)
			k.onLAN.Store("")
		}
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if now, ok := k.tasks.Get(id); !ok || !now.Done() {
			return err // the subscription is gone, not the task
		}
		pause := time.NewTimer(pauseAfterEnd)
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
	}
}

func serviceTask(id string, spec serviceSpec) client.Task {
	return client.Task{
		ID: id, Name: spec.Name, CPUs: 0.1, MemMB: 32, Ports: 1,
		Command: &mesosv1.CommandInfo{Shell: proto.Bool(false)}, Container: imageContainer(spec.Image),
	}
}

// imageContainer is a container with an image out of a registry.
func imageContainer(ref string) *mesosv1.ContainerInfo {
	return &mesosv1.ContainerInfo{
		Type: mesosv1.ContainerInfo_MESOS.Enum(),
		Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{
			Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: proto.String(ref)},
		}},
	}
}

// announce puts a running task behind the service's URL and, the first time, tells who
// asked for the service as soon as it answers.
func (k *serviceKeeper) announce(ctx context.Context, t client.Launched) {
	if len(t.Ports) == 0 {
		return
	}
	k.onLAN.Store(net.JoinHostPort(t.Hostname, strconv.FormatUint(t.Ports[0], 10)))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !answers(ctx, k.url) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now, ok := k.tasks.Get(t.Task.ID); !ok || now.Done() {
			return
		}
	}
	select {
	case k.first <- serviceAnswer{URL: k.url, Host: t.Hostname}:
	default:
	}
}

// answers reports whether a URL gives 200.
func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	direct := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := direct.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (k *serviceKeeper) firstAnswer(ctx context.Context) (serviceAnswer, error) {
	select {
	case a := <-k.first:
		return a, nil
	case err := <-k.failed:
		return serviceAnswer{}, err
	case <-ctx.Done():
		id := k.spec.Name + ".1"
		now, _ := k.tasks.Get(id)
		return serviceAnswer{}, fmt.Errorf("service %s does not answer: %w (its first task: %s %s)", k.spec.Name, ctx.Err(),
			now.Status.GetState(), now.Status.GetMessage())
	}
}
