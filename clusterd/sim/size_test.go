package sim

import (
	"context"
	"flag"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
)

var crowd = flag.Int("sim.agents", 100, "agents in the tests of size")

// hall is a cluster of three masters and many agents.
func hall(t *testing.T, f func(w *world)) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	synctest.Test(t, func(t *testing.T) {
		w := worldOf(t, seed, cast{masters: 3, agents: *crowd, frameworks: 1, silent: true})
		w.sizes.Snapshot = 8 << 20
		t.Logf("%d agents, seed %d", *crowd, seed)
		w.eventually("everybody's attachment", 5*time.Minute, func() bool { return w.attached() == *crowd })
		f(w)
		w.settle()
		w.end()
		t.Logf("%s", &w.net.counts)
	})
}

// attached counts the agents that the present leader takes for attached and connected.
func (w *world) attached() (n int) {
	_, l := w.leader()
	if l == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), beat)
	defer cancel()
	if l.View(ctx, func(_ *state.State, v leader.Live) { n = len(v.Attached) - len(v.Away) }) != nil {
		return 0
	}
	return n
}

// unreachable counts those that the state calls so.
func (w *world) unreachable() (n int) {
	_, l := w.leader()
	if l == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), beat)
	defer cancel()
	_ = l.View(ctx, func(s *state.State, _ leader.Live) {
		for a := range s.Agents() {
			if a.Unreachable {
				n++
			}
		}
	})
	return n
}

// offerBook checks every offer against what the agents themselves have sent.
type offerBook struct {
	mu    sync.Mutex
	first map[uint64]time.Time // by term: when the first offer of it came
	seen  []seenOffer
}

// seenOffer is judged at the end: an agent may hear its id after others were offered what
// it has.
type seenOffer struct {
	agent string
	term  uint64
	at    time.Time
}

func newOfferBook() *offerBook { return &offerBook{first: map[uint64]time.Time{}} }

// termOf is the term in an offer's id, <generation>-O<term>.<n>; 0: it is none.
func termOf(offer string) uint64 {
	_, rest, _ := strings.Cut(offer, "-O")
	number, _, _ := strings.Cut(rest, ".")
	term, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0
	}
	return term
}

// saw notes an offer.
func (b *offerBook) saw(offer, agent string) {
	o := seenOffer{agent, termOf(offer), time.Now()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, o)
	if b.first[o.term].IsZero() {
		b.first[o.term] = o.at
	}
}

// The leader loses its power: all agents attach to the next one while it offers
// what those have that are there already.
func TestManyAgentsAttachToANewLeader(t *testing.T) {
	hall(t, func(w *world) {
		for range 3 {
			old, _ := w.leader()
			began := time.Now()
			old.off(true)
			w.eventually("another leader", 30*beat, func() bool { n, _ := w.leader(); return n != nil })
			elected := time.Since(began)
			w.eventually("everybody's attachment", 60*beat, func() bool { return w.attached() == *crowd })
			all := time.Since(began)
			old.start()
			time.Sleep(10 * beat)
			w.offers.mu.Lock()
			var firstOffer time.Duration
			for _, at := range w.offers.first {
				if at.After(began) && (firstOffer == 0 || at.Sub(began) < firstOffer) {
					firstOffer = at.Sub(began)
				}
			}
			w.offers.mu.Unlock()
			w.t.Logf("in heartbeat timeouts from the leader's power loss: another leads %.1f, all %d agents attached %.1f, first offer of it %.1f",
				beats(elected), *crowd, beats(all), beats(firstOffer))
			if firstOffer == 0 {
				w.t.Error("the new leader offered nothing")
			}
		}
		w.offersWereRight()
		if n := w.unreachable(); n > 0 || len(w.history.lost) > 0 {
			w.t.Errorf("%d agents were called unreachable, %v", n, w.history.lost)
		}
	})
}

func beats(d time.Duration) float64 { return float64(d) / float64(beat) }

// offersWereRight: the agent of each had asked the leader of that term to attach it.
func (w *world) offersWereRight() {
	agents := map[string]*worker{}
	for _, a := range w.workers {
		agents[a.is()] = a
	}
	w.offers.mu.Lock()
	defer w.offers.mu.Unlock()
	wrong := 0
	for _, o := range w.offers.seen {
		if a := agents[o.agent]; a == nil || !a.askedIn(o.term, o.at) {
			wrong++
		}
	}
	w.t.Logf("%d offers, %d of agents that had not attached in their term", len(w.offers.seen), wrong)
	if wrong > 0 || len(w.offers.seen) == 0 {
		w.t.Errorf("%d of %d offers were of agents that had not attached in their term", wrong, len(w.offers.seen))
	}
}

// A third and a few more fall silent in the same moment. The leader hands over before it
// calls any of them unreachable, and then they are not called so all at once.
func TestAThirdOfAllAgentsFallsSilent(t *testing.T) {
	hall(t, func(w *world) {
		old, _ := w.leader()
		began := time.Now()
		mute := *crowd/3 + 10
		for _, a := range w.workers[:mute] {
			a.setMute(true)
		}
		w.net.counts.addN("agents fallen silent", mute)
		w.players[0].rest() // nothing of it matters here, and it takes time
		w.eventually("another leader", grace+20*beat, func() bool { n, _ := w.leader(); return n != nil && n != old })
		handed := time.Since(began)
		if n := w.history.lostCount(); n > 0 {
			w.t.Errorf("%d agents were given up before the handover", n)
		}
		w.eventually("the first given up", 30*time.Minute, func() bool { return w.history.lostCount() > 0 })
		first := time.Since(began)
		most := 0
		for last := w.history.lostCount(); w.history.lostCount() < mute; {
			time.Sleep(beat)
			now := w.history.lostCount()
			most, last = max(most, now-last), now
			if time.Since(began) > time.Hour {
				w.t.Fatalf("%d of %d given up after an hour", now, mute)
			}
		}
		w.t.Logf("in heartbeat timeouts from the silence: handed over after %.1f, first UNREACHABLE after %.1f, all %d after %.1f, at most %d in one heartbeat timeout",
			beats(handed), beats(first), mute, beats(time.Since(began)), most)
		if most > 2*max(4, *crowd/100) {
			w.t.Errorf("%d agents were given up within one heartbeat timeout", most)
		}
		// Who speaks again is back at once.
		back := time.Now()
		for _, a := range w.workers[:mute] {
			a.setMute(false)
		}
		w.eventually("everybody's return", 5*time.Minute, func() bool { return w.attached() == *crowd && w.unreachable() == 0 })
		w.t.Logf("all were back after %.1f heartbeat timeouts", beats(time.Since(back)))
		w.offersWereRight()
	})
}

// A twentieth of all agents lose all their connections every few seconds:
// nobody is called unreachable for it, and the others are offered all the time.
func TestFlappingAgents(t *testing.T) {
	long := time.Minute // more than twice an agent's grace
	if *lives > 1 {
		long *= 3
	}
	hall(t, func(w *world) {
		flapping := w.workers[:max(2, *crowd/20)]
		before := w.offersSoFar()
		flaps := 0
		for end := time.Now().Add(long); time.Now().Before(end); {
			for _, a := range flapping {
				if w.rng.IntN(2) == 0 {
					w.net.sever(a.name)
					flaps++
				}
			}
			time.Sleep(w.between(beat, 6*beat))
		}
		w.net.counts.addN("connections flapped", flaps)
		w.eventually("everybody's attachment", time.Minute, func() bool { return w.attached() == *crowd })
		w.t.Logf("%d agents flapped %d times; %d offers meanwhile", len(flapping), flaps, w.offersSoFar()-before)
		if n := w.history.lostCount(); n > 0 {
			w.t.Errorf("%d agents were called unreachable", n)
		}
		if w.offersSoFar() == before || flaps == 0 {
			w.t.Error("nothing was offered meanwhile, or nothing flapped")
		}
		w.offersWereRight()
	})
}

func (w *world) offersSoFar() int {
	w.offers.mu.Lock()
	defer w.offers.mu.Unlock()
	return len(w.offers.seen)
}
