//go:build bench

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

const (
	failovers = 20
	devBeat   = 250 * time.Millisecond // --heartbeat's default
)

// eager is a framework that launches a task with every offer while it is asked to.
type eager struct {
	*client.Client
	mu       sync.Mutex
	named    int
	accepted chan time.Time // not nil: the first launch that is accepted goes here
}

func (f *eager) hear(ctx context.Context, e *scheduler.Event) error {
	for _, o := range e.GetOffers().GetOffers() {
		f.mu.Lock()
		wanted := f.accepted
		f.named++
		id := fmt.Sprint("t", f.named)
		f.mu.Unlock()
		if wanted == nil {
			_ = f.Decline(ctx, []*mesosv1.OfferID{o.GetId()}, 0.1)
			continue
		}
		one := func(name string, v float64) *mesosv1.Resource {
			return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
		}
		err := f.Accept(ctx, []*mesosv1.OfferID{o.GetId()}, []*mesosv1.Offer_Operation{{
			Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{{
				Name: &id, TaskId: &mesosv1.TaskID{Value: &id}, AgentId: o.GetAgentId(), Command: &mesosv1.CommandInfo{Value: proto.String("true")},
				Resources: []*mesosv1.Resource{one("cpus", 0.01), one("mem", 8)},
			}}},
		}}, 0.1)
		if err != nil {
			continue
		}
		f.mu.Lock()
		if f.accepted != nil {
			f.accepted <- time.Now()
			f.accepted = nil
		}
		f.mu.Unlock()
	}
	return nil
}

// want asks for a launch, and gives when one was accepted.
func (f *eager) want() <-chan time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted = make(chan time.Time, 1)
	return f.accepted
}

// Figure 8, as processes on loopback: kill -9 of the leader to the first committed entry (a
// new framework's subscription), and to the first launch accepted from one that reconnects
// at once.
func TestBenchFailoverOfProcesses(t *testing.T) {
	p := newTaskProcesses(t, 3)
	var urls []string
	for i := range p.running {
		p.start(i)
		urls = append(urls, "http://"+p.api(i))
	}
	c, err := client.New(client.Config{Masters: urls, Framework: &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String("eager"), FailoverTimeout: proto.Float64(600),
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := &eager{Client: c}
	go c.Run(t.Context(), f.hear)
	calm := func() (trip time.Duration) {
		p.eventually("all members' answers", func() bool {
			for i := range p.running {
				if _, err := p.frameworks(i); err != nil {
					return false
				}
			}
			return true
		})
		select {
		case <-f.want():
		case <-time.After(time.Minute):
			t.Fatal("no launch on a calm cluster")
		}
		began := time.Now()
		if _, err := p.frameworks(0); err != nil {
			t.Log(err)
		}
		return time.Since(began)
	}
	var trips, commits, launches []time.Duration
	for range failovers {
		trips = append(trips, calm())
		time.Sleep(8 * devBeat)
		lead, err := p.leads(-1)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		p.kill(lead)
		launched := f.want()
		committed := make(chan time.Time, 1)
		go func() {
			for {
				for i := range p.dirs {
					if i == lead {
						continue
					}
					if _, err := p.subscribe(i); err == nil {
						committed <- time.Now()
						return
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		for range 2 {
			select {
			case at := <-committed:
				commits = append(commits, at.Sub(began))
			case at := <-launched:
				launches = append(launches, at.Sub(began))
			case <-time.After(time.Minute):
				t.Fatal("no new leader in a minute")
			}
		}
		p.start(lead)
	}
	raw, _ := os.ReadFile("/proc/loadavg")
	say := func(what string, d []time.Duration) {
		slices.Sort(d)
		t.Logf("%s: p50 %s = %.1f heartbeat timeouts, worst %s = %.1f (N=%d)", what,
			d[len(d)/2].Round(time.Millisecond), float64(d[len(d)/2])/float64(devBeat), d[len(d)-1].Round(time.Millisecond), float64(d[len(d)-1])/float64(devBeat), len(d))
	}
	say("leader killed (kill -9) to the first committed entry", commits)
	say("leader killed (kill -9) to the first launch accepted", launches)
	slices.Sort(trips)
	t.Logf("a round trip (GET /frameworks on a calm cluster): p50 %s; heartbeat timeout %s; load %s", trips[len(trips)/2].Round(time.Millisecond), devBeat, strings.Fields(string(raw))[0])
}
