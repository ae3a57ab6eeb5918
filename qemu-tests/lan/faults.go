package lan

import (
	"math/rand/v2"
	"sort"
	"time"
)

// Fault is what happens to the frames of one direction between two ports.
type Fault struct {
	Cut   bool          // nothing passes
	Loss  float64       // this share of frames is dropped, 0 to 1
	Delay time.Duration // every frame waits for that long
}

// Count says what one direction between two ports has seen.
type Count struct {
	From, To string
	Passed   uint64 // frames handed to the port
	Dropped  uint64 // frames that a fault dropped
	Delayed  uint64 // frames that a fault held back
	Overflow uint64 // frames that the receiver was too slow for
}

type direction struct{ from, to string }

// link is one direction between two ports: its fault, its counters and, once a delay was
// set, the goroutine that holds frames back.
type link struct {
	fault   Fault
	count   Count
	waiting chan delayed
}

type delayed struct {
	due   time.Time
	to    *port
	frame []byte
}

// maxWaiting bounds the frames that one delayed direction holds; more are dropped.
const maxWaiting = 4096

// Set makes the frames from one port to another suffer a fault; the zero Fault heals.
func (s *Switch) Set(from, to string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link(from, to).fault = f
}

// SetBoth makes a fault hold in both directions between two ports.
func (s *Switch) SetBoth(a, b string, f Fault) {
	s.Set(a, b, f)
	s.Set(b, a, f)
}

// Isolate cuts a port from each of the others, the gateway included, in both directions.
func (s *Switch) Isolate(name string, others ...string) {
	for _, other := range others {
		s.SetBoth(name, other, Fault{Cut: true})
	}
}

// Heal removes every fault.
func (s *Switch) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		l.fault = Fault{}
	}
}

// Counts gives the counters of every direction that saw a frame or a fault, sorted.
func (s *Switch) Counts() []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Count, 0, len(s.links))
	for _, l := range s.links {
		all = append(all, l.count)
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].From != all[j].From {
			return all[i].From < all[j].From
		}
		return all[i].To < all[j].To
	})
	return all
}

// Dropped is the number of frames that faults have dropped between two ports, in both
// directions together.
func (s *Switch) Dropped(a, b string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link(a, b).count.Dropped + s.link(b, a).count.Dropped
}

// link finds or makes the state of a direction; the caller holds the lock.
func (s *Switch) link(from, to string) *link {
	key := direction{from, to}
	l := s.links[key]
	if l == nil {
		l = &link{count: Count{From: from, To: to}}
		s.links[key] = l
	}
	return l
}

// pass hands a frame to a port unless a fault says otherwise; the caller holds the lock.
func (s *Switch) pass(from, to *port, frame []byte) {
	l := s.link(from.name, to.name)
	if l.fault.Cut || (l.fault.Loss > 0 && rand.Float64() < l.fault.Loss) {
		l.count.Dropped++
		return
	}
	if l.fault.Delay > 0 || len(l.waiting) > 0 {
		s.hold(l, to, frame)
		return
	}
	s.put(l, to, frame)
}

// put queues a frame at its port; the caller holds the lock.
func (s *Switch) put(l *link, to *port, frame []byte) {
	select {
	case to.out <- frame:
		l.count.Passed++
	default:
		l.count.Overflow++
	}
}

// hold queues a frame in its direction's delay line; the caller holds the lock.
func (s *Switch) hold(l *link, to *port, frame []byte) {
	if l.waiting == nil {
		l.waiting = make(chan delayed, maxWaiting)
		s.lines.Go(func() { s.runLine(l) })
	}
	select {
	case l.waiting <- delayed{due: time.Now().Add(l.fault.Delay), to: to, frame: frame}:
		l.count.Delayed++
	default:
		l.count.Overflow++
	}
}

// runLine releases the frames of a delay line when they are due, in their order.
func (s *Switch) runLine(l *link) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.closed:
			return
		case d := <-l.waiting:
			timer.Reset(time.Until(d.due))
			select {
			case <-s.closed:
				return
			case <-timer.C:
			}
			s.mu.Lock()
			s.put(l, d.to, d.frame)
			s.mu.Unlock()
		}
	}
}
