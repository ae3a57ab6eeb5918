//go:build vm

package qemutests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/client"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

const (
	// quietFor is how long is looked at the node before anything attacks it.
	quietFor = 8 * time.Second
	// askEvery is how long a node is left alone between two calls.
	askEvery = time.Second
	// toHarm is how many boots an attack may take to do its harm.
	toHarm = 30
)

// watched is a node under attack with what is looked at meanwhile.
type watched struct {
	w         *world
	node      cluster.Node
	neighbour client.Launched // a decent task on the node
	output    func(t *testing.T, l client.Launched, file string) string

	fired int
}

// seen is what one attack did to everybody else.
type seen struct {
	lasted        time.Duration
	beats         int // of the neighbour
	asked         int // of the node, by the neighbour
	hurt          []string
	calls         int
	failed        []string
	worst         time.Duration // of the calls of the node's APIs
	heard, missed float64       // heartbeats, by the other masters
	silence       float64       // the longest ever, in seconds
	term          uint64
	leader        string
	restarts      uint32
}

func (s seen) String() string {
	rate := float64(s.beats) / s.lasted.Seconds()
	return fmt.Sprintf("in %.1f s the neighbour did %.1f rounds a second and made %d connections, hurt %d times; %d calls of the node's APIs, worst %.2f s, %d failed; %.0f heartbeats heard, %.0f missed, longest silence so far %.2f s; leader %s in term %d; %d restarts",
		s.lasted.Seconds(), rate, s.asked, len(s.hurt), s.calls, s.worst.Seconds(), len(s.failed), s.heard, s.missed, s.silence, s.leader, s.term, s.restarts)
}

// check fails the test unless only who attacked has suffered.
func (s seen) check(t *testing.T, quiet seen) {
	t.Helper()
	rate := func(s seen) float64 { return float64(s.beats) / s.lasted.Seconds() }
	switch {
	case len(s.hurt) > 0:
		t.Errorf("the neighbour was hurt %d times: %.500s", len(s.hurt), strings.Join(s.hurt, "; "))
	case rate(s) < rate(quiet)/10:
		t.Errorf("the neighbour did %.2f rounds a second, in the quiet %.2f", rate(s), rate(quiet))
	case s.asked == 0:
		t.Error("the neighbour made no connection to its node")
	}
	if len(s.failed) > 0 || s.calls < 3 {
		t.Errorf("%d calls of the node's APIs, failed: %.500s", s.calls, strings.Join(s.failed, "; "))
	}
	if s.leader != quiet.leader || s.term != quiet.term {
		t.Errorf("%s led in term %d, now %s in term %d", quiet.leader, quiet.term, s.leader, s.term)
	}
	// Emulated machines on a busy host miss heartbeats in the quiet too; an attack may add
	// none to what that amounts to in the same time.
	if due := math.Ceil(quiet.missed * s.lasted.Seconds() / quiet.lasted.Seconds()); s.missed > due || s.heard == 0 {
		t.Errorf("%.0f heartbeats missed of %.0f heard, in the quiet %.0f of %.0f", s.missed, s.heard, quiet.missed, quiet.heard)
	}
	if s.restarts != quiet.restarts {
		t.Errorf("the node's programs were started again %d times", s.restarts-quiet.restarts)
	}
}

func (h *watched) get(ctx context.Context, at string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	resp, err := h.w.Client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, %w: %.200s", at, resp.Status, err, body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// during looks at everybody else from the beginning of something until it is done.
func (h *watched) during(t *testing.T, begin func(), done func() bool) seen {
	t.Helper()
	before := h.look(t)
	ctx, cancel := context.WithCancel(t.Context())
	var s seen
	var asking sync.WaitGroup
	asking.Go(func() { h.ask(ctx, &s) })
	begin()
	for !done() && t.Context().Err() == nil {
		time.Sleep(askEvery * 2)
	}
	cancel()
	asking.Wait()
	after := h.look(t)
	s.lasted = after.at.Sub(before.at)
	s.beats, s.asked = after.beats-before.beats, after.answered-before.answered
	s.hurt = after.hurt[len(before.hurt):]
	s.heard, s.missed, s.silence = after.heard-before.heard, after.missed-before.missed, after.silence
	s.term, s.leader, s.restarts = after.term, after.leader, after.restarts
	return s
}

// ask makes one call after the other, of each API in turns, each by a connection of its own.
func (h *watched) ask(ctx context.Context, s *seen) {
	urls := []string{
		h.w.URL(h.node, "/health"), h.w.URL(h.node, "/metrics/snapshot"),
		fmt.Sprintf("https://%s:%d/metrics/snapshot", h.node.Address, cluster.AgentPort),
		fmt.Sprintf("https://%s:%d/v1/health", h.node.Address, cluster.NodePort),
	}
	for n := 0; ctx.Err() == nil; n++ {
		began := time.Now()
		err := h.get(context.WithoutCancel(ctx), urls[n%len(urls)], nil)
		s.calls++
		s.worst = max(s.worst, time.Since(began))
		if err != nil {
			s.failed = append(s.failed, err.Error())
		}
		select { // to ask is not to be one more attack
		case <-time.After(askEvery):
		case <-ctx.Done():
		}
	}
}

type lookedAt struct {
	at                     time.Time
	beats, answered        int
	hurt                   []string
	heard, missed, silence float64
	term                   uint64
	leader                 string
	restarts               uint32
}

func (h *watched) look(t *testing.T) lookedAt {
	t.Helper()
	l := lookedAt{at: time.Now()}
	for line := range strings.SplitSeq(h.output(t, h.neighbour, "stdout"), "\n") {
		switch word, _, _ := strings.Cut(line, " "); word {
		case "beat":
			l.beats++
		case "answered":
			l.answered++
		case "hurt:":
			l.hurt = append(l.hurt, line)
		}
	}
	for _, m := range h.w.Machines() {
		var v map[string]float64
		if err := h.get(t.Context(), h.w.URL(m.Node, "/metrics/snapshot"), &v); err != nil {
			t.Fatal(err)
		}
		if m.Node.Name == h.node.Name {
			continue
		}
		l.heard += v["raft/heartbeats_heard"]
		l.missed += v["raft/heartbeats_missed"]
		l.silence = max(l.silence, v["raft/heartbeat_silence_longest_secs"])
	}
	api := h.w.nodeAPI(h.node)
	health, err := api.Health(within(t, toRun))
	if err != nil {
		t.Fatal(err)
	}
	l.term, l.leader = health.Status.Term, health.Status.Leader
	services, err := api.Services(within(t, toRun))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		l.restarts += s.Restarts
	}
	return l
}
