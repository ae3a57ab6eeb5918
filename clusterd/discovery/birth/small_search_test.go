package birth

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// link remembers how a state was reached.
type link struct {
	parent uint32
	by     move
}

// search visits every state that can be reached, nearest first.
type search struct {
	w         *smallWorld
	seed      maphash.Seed
	seen      hashes
	healed    hashes
	links     []link
	edges     int
	depth     int
	happened  [moveKinds]int
	limit     int
	ended     bool // there was nothing left to visit
	why       string
	next, ill scene // kept here, so that none is allocated
	buf       []byte
	badAt     uint32
	visited   func(*scene)
}

// hashes is a set of 64-bit hashes.
type hashes struct {
	slots []uint64
	count int
}

// add says whether h was not there before.
func (h *hashes) add(k uint64) bool {
	if h.count*3 >= len(h.slots)*2 {
		old := h.slots
		h.slots = make([]uint64, max(1<<16, 2*len(old)))
		for _, k := range old {
			if k != 0 {
				h.put(k)
			}
		}
	}
	if k == 0 {
		k = 1
	}
	if !h.put(k) {
		return false
	}
	h.count++
	return true
}

func (h *hashes) put(k uint64) bool {
	mask := uint64(len(h.slots) - 1)
	for at := k & mask; ; at = (at + 1) & mask {
		switch h.slots[at] {
		case 0:
			h.slots[at] = k
			return true
		case k:
			return false
		}
	}
}

func (h *hashes) has(k uint64) bool {
	if len(h.slots) == 0 {
		return false
	}
	mask := uint64(len(h.slots) - 1)
	if k == 0 {
		k = 1
	}
	for at := k & mask; ; at = (at + 1) & mask {
		switch h.slots[at] {
		case 0:
			return false
		case k:
			return true
		}
	}
}

// frontier is a queue of packed scenes.
type frontier struct {
	bytes []byte
	ends  []uint32
	ids   []uint32
}

func (x *search) run(first scene) {
	x.seed = maphash.MakeSeed()
	var buf []byte
	now, next := &frontier{}, &frontier{}
	visit := func(s *scene, parent uint32, by move) {
		buf = s.pack(buf[:0])
		if !x.seen.add(maphash.Bytes(x.seed, buf)) {
			return
		}
		id := uint32(len(x.links))
		x.links = append(x.links, link{parent, by})
		next.bytes = append(next.bytes, buf...)
		next.ends = append(next.ends, uint32(len(buf)))
		next.ids = append(next.ids, id)
	}
	visit(&first, 0, move{})
	for x.why == "" && len(next.ids) > 0 && len(x.links) < x.limit {
		now, next = next, now
		next.bytes, next.ends, next.ids = next.bytes[:0], next.ends[:0], next.ids[:0]
		at := 0
		for k, id := range now.ids {
			var s scene
			unpack(now.bytes[at:at+int(now.ends[k])], &s)
			at += int(now.ends[k])
			x.expand(&s, id, visit)
			if x.why != "" {
				break
			}
		}
		x.depth++
	}
	x.ended = x.why == "" && len(next.ids) == 0
}

func (x *search) expand(s *scene, id uint32, visit func(*scene, uint32, move)) {
	w := x.w
	if x.visited != nil {
		x.visited(s)
	}
	if why := x.heal(s); why != "" {
		x.why, x.badAt = why, id
		return
	}
	leads := false
	for i := range w.n {
		leads = leads || s.p[i].leading && !s.p[i].looked
	}
	w.moves(s, func(m move) {
		for _, stale := range [...]bool{false, true} {
			if stale && (!leads || m.kind != mvDeliver && m.kind != mvOn && m.kind != mvOff) {
				return
			}
			m.stale = stale
			h := &x.next
			*h = *s
			if x.why != "" || !w.apply(h, m) {
				if !stale {
					return
				}
				continue
			}
			x.edges++
			x.happened[m.kind]++
			why := w.wrong(h)
			if why != "" {
				x.why, x.badAt = why, uint32(len(x.links))
				x.links = append(x.links, link{id, m})
				return
			}
			visit(h, id, m)
		}
	})
}

// way replays how a state was reached.
func (x *search) way(first scene, id uint32) string {
	var moves []move
	for id != 0 {
		moves = append(moves, x.links[id].by)
		id = x.links[id].parent
	}
	var b strings.Builder
	w := x.w
	w.trace = func(format string, args ...any) { fmt.Fprintf(&b, "    "+format+"\n", args...) }
	s := first
	for k := len(moves) - 1; k >= 0; k-- {
		fmt.Fprintf(&b, "%v\n", moves[k])
		w.apply(&s, moves[k])
		w.wrong(&s)
	}
	fmt.Fprintf(&b, "%s", w.describe(&s))
	return b.String()
}

// heal ends all faults: there must be a way to one leader with every master voting. The
// way depends on the state alone, so that ways join, and one is walked once.
func (x *search) heal(from *scene) string {
	w, s := x.w, &x.ill
	*s = *from
	s.left = budgets{hasty: endless}
	var way []uint64
	for range 2000 {
		x.buf = s.pack(x.buf[:0])
		h := maphash.Bytes(x.seed, x.buf)
		if w.well(s) || x.healed.has(h) {
			for _, k := range way {
				x.healed.add(k)
			}
			return ""
		}
		way = append(way, h)
		if !w.healStep(s) {
			return wrongStuck + " nothing can be done for the masters to become one again"
		}
		if why := w.wrong(s); why != "" {
			return why + ", while everything becomes well"
		}
	}
	return wrongStuck + " the masters do not become one again"
}

func (w *smallWorld) healStep(s *scene) bool {
	for _, kind := range []moveKind{mvOn, mvDeliver, mvStepDown, mvReplicate, mvChange, mvHeard, mvWait, mvGiveUp, mvExpire, mvElect, mvStart} {
		switch kind {
		case mvDeliver:
			for k := range s.wire {
				if s.wire[k] != 0 {
					return w.apply(s, move{kind: kind, j: uint8(k)})
				}
			}
			continue
		}
		for i := range uint8(w.n) {
			switch kind {
			case mvReplicate:
				for j := range uint8(w.n) {
					if w.try(s, move{kind: kind, i: i, j: j}) {
						return true
					}
				}
				continue
			case mvElect:
				could, _ := w.electable(s, int(i))
				if w.try(s, move{kind: kind, i: i, j: could}) {
					return true
				}
				continue
			}
			if w.try(s, move{kind: kind, i: i}) {
				return true
			}
		}
	}
	return false
}

// try does a move, or leaves everything as it was.
func (w *smallWorld) try(s *scene, m move) bool {
	w.before = *s
	if w.apply(s, m) {
		return true
	}
	*s = w.before
	return false
}
