package birth

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// deliver lets the k-th message on the wire arrive.
func (w *world) deliver(k int) {
	m := w.wire[k]
	w.wire = slices.Delete(slices.Clone(w.wire), k, k+1)
	to := &w.machines[m.to]
	if !w.reach(m.from, m.to) && m.from != m.to || (m.answers && to.proc != m.proc) {
		w.failed(m)
		return
	}
	w.say("%s → %s: %c answer=%v %s", w.machines[m.from].name, to.name, m.kind, m.answers, m.attempt)
	if m.answers {
		w.answered(m)
		return
	}
	reply := message{kind: m.kind, answers: true, from: m.to, to: m.from, proc: m.proc, attempt: m.attempt}
	switch m.kind {
	case mChallenge:
		w.challenge(m, reply)
		return
	case mEnd:
		w.let(m.to, Ended{m.attempt})
		return
	case mAsk:
		reply.answer = Answer{Name: to.name, ListVersion: 1, Own: to.own()}
	case mLeave:
		if w.asked(m.to, m.attempt) {
			w.leave(m.to)
			reply.accepted, reply.answer = true, Answer{Own: Own{Incarnation: to.incarnation()}}
			if m.want && to.left != nil {
				reply.state, reply.origin = commands(to.left.log), to.own().Reach()
			}
		}
	case mFound:
		if w.asked(m.to, m.attempt) && !to.member {
			w.bind(m)
			reply.accepted = true
		}
	}
	w.wire = append(w.wire, reply)
}

func (w *world) asked(i int, attempt string) bool {
	for _, a := range w.let(i, Asked{w.machines[i].now, attempt}) {
		if _, yes := a.(Bind); yes {
			return true
		}
	}
	w.did.refused++
	return false
}

func (w *world) bind(m message) {
	first := entry{term: 1, base: m.state, origin: m.origin}
	for _, v := range m.voters {
		first.members = append(first.members, Member{Voter: v, Votes: true})
	}
	w.enter(m.to, m.gen, []entry{first})
	w.say("%s is bound to %s", w.machines[m.to].name, m.gen.ID)
}

func (w *world) challenge(m, reply message) {
	to, from := &w.machines[m.to], w.machines[m.from].name
	if to.member && len(to.log) == 0 && w.leaderOf(m.to) == "" {
		to.member, to.gen = false, Generation{} // it waited to be filled
	}
	if p := to.st.Promise(); p.From == from && p.Incarnation != m.inc {
		w.send(message{kind: mAsk, from: m.to, to: w.find(m.to, from)})
	}
	for _, a := range w.let(m.to, Challenged{
		Now: to.now, Own: to.own(), From: from, Incarnation: m.inc, ListVersion: 1, Attempt: m.attempt, Leader: w.leaderOf(m.to),
	}) {
		if r, yes := a.(Reply); yes {
			reply.answer = r.Answer
			if r.Answer.Promised {
				w.did.promises++
			} else {
				w.did.refused++
			}
		}
	}
	w.wire = append(w.wire, reply)
}

func (w *world) answered(m message) {
	to := &w.machines[m.to]
	switch m.kind {
	case mAsk:
		w.let(m.to, Proven{Name: w.machines[m.from].name, Incarnation: m.answer.Incarnation, Hardware: m.answer.Hardware})
	case mLeave, mFound:
		w.note(m.to, m.proc, m)
	case mChallenge:
		to.highest = max(to.highest, m.answer.Highest, m.answer.Generation.Height)
		w.hear(m.to, m.answer)
		w.let(m.to, Answered{Now: to.now, Own: to.own(), Attempt: m.attempt, Answer: m.answer})
	}
}

// hear joins a generation that has a leader, as masters does.
func (w *world) hear(i int, a Answer) {
	m := &w.machines[i]
	heard := maps.Clone(m.heard)
	if heard == nil {
		heard = map[string]heardOf{}
	}
	heard[a.Name] = heardOf{a.Generation, a.Bound, m.now}
	m.heard = heard
	if a.Leader == "" || !a.Bound || a.Generation == m.gen || w.leaderOf(i) != "" || !m.st.MayJoin(m.now) {
		return
	}
	elsewhere := 0
	for _, h := range m.heard {
		if h.bound && h.gen != m.gen && m.now.Sub(h.at) < 10*time.Second {
			elsewhere++
		}
	}
	if m.own().Bound && a.Generation.Height <= m.gen.Height && elsewhere <= w.n/2 {
		return
	}
	w.leave(i)
	w.enter(i, a.Generation, nil)
	w.did.joined++
	w.say("%s joins %s", m.name, a.Generation.ID)
}

// tick moves a machine's clock to the next moment at which something could happen.
func (w *world) tick(i int) {
	m := &w.machines[i]
	m.now = w.deadline(m)
	w.onTick(i)
}

func (w *world) onTick(i int) {
	m := &w.machines[i]
	if m.leading && !w.holdsQuorum(i) {
		m.leading = false
		w.did.stepsDown++
		w.say("%s leads no more", m.name)
	}
	if w.leaderOf(i) != "" {
		w.let(i, LeaderHeard{m.now})
	}
	if m.member && len(m.log) > 0 {
		m.left = nil
	}
	w.let(i, Tick{Now: m.now, Own: m.own(), Attempt: fmt.Sprintf("t%d", w.number())})
}

// deadline is the next moment that a machine's state waits for.
func (w *world) deadline(m *machine) time.Time {
	s := m.st
	moments := []time.Time{s.lastLeader.Add(s.patience(m.own().Bound)), s.notBefore, s.promisedUntil.Add(time.Second)}
	if s.attempt != "" {
		moments = append(moments, s.began.Add(wPromise+time.Second))
		if !s.enough.IsZero() {
			moments = append(moments, s.enough.Add(wWait))
		}
	}
	next := m.now.Add(wQuiet)
	for _, t := range moments {
		if t.After(m.now) && t.Before(next) {
			next = t
		}
	}
	return next
}

// The model of Raft.

// upToDate says whether a log is at least as new as another.
func upToDate(a, b []entry) bool {
	if lastTerm(a) != lastTerm(b) {
		return lastTerm(a) > lastTerm(b)
	}
	return len(a) >= len(b)
}

// server finds the machine that is a member of a generation under a server id.
func (w *world) server(g Generation, v Voter) int {
	for j := range w.machines {
		m := &w.machines[j]
		if m.member && m.gen == g && m.voter() == v {
			return j
		}
	}
	return -1
}

// electable lists who would vote for a machine, itself among them: nobody in whose own
// configuration it has no vote.
func (w *world) electable(i int, reach func(a, b int) bool) (supporters []int, ok bool) {
	m := &w.machines[i]
	if !m.member || len(m.log) == 0 {
		return nil, false
	}
	ms, _ := members(m.log)
	vs := voters(ms)
	if !slices.Contains(vs, m.voter()) {
		return nil, false
	}
	for _, v := range vs {
		j := w.server(m.gen, v)
		if j < 0 || j != i && !reach(i, j) || !upToDate(m.log, w.machines[j].log) {
			continue
		}
		if theirs, _ := members(w.machines[j].log); slices.Contains(voters(theirs), m.voter()) {
			supporters = append(supporters, j)
		}
	}
	return supporters, len(supporters) >= len(vs)/2+1
}

func (w *world) elect(i int) bool {
	m := &w.machines[i]
	if !m.up || m.leading {
		return false
	}
	supporters, ok := w.electable(i, w.both)
	if !ok {
		return false
	}
	term := 0
	for _, j := range supporters {
		term = max(term, w.machines[j].term)
	}
	term++
	for _, j := range supporters {
		w.machines[j].term, w.machines[j].leading = term, false
	}
	m.leading, m.living = true, nil
	w.did.elections++
	w.say("%s leads %s in term %d", m.name, m.gen.ID, term)
	w.append(i, entry{term: term})
	m.match = map[Voter]int{m.voter(): len(m.log)}
	w.commit(i)
	return true
}

func (w *world) append(i int, e entry) {
	m := &w.machines[i]
	e.term = m.term
	m.log = append(slices.Clone(m.log), e)
	if m.match != nil {
		m.match = maps.Clone(m.match)
		m.match[m.voter()] = len(m.log)
	}
}

// holdsQuorum says whether a leader can still reach a majority.
func (w *world) holdsQuorum(i int) bool {
	m := &w.machines[i]
	ms, _ := members(m.log)
	vs, n := voters(ms), 0
	for _, v := range vs {
		if j := w.server(m.gen, v); j >= 0 && w.machines[j].term <= m.term && (j == i || w.both(i, j)) {
			n++
		}
	}
	return n >= len(vs)/2+1
}

// replicate brings a follower to where the leader is.
func (w *world) replicate(i, j int) bool {
	m, f := &w.machines[i], &w.machines[j]
	if !m.leading || i == j || !w.both(i, j) || !f.member || f.gen != m.gen {
		return false
	}
	if f.term > m.term {
		m.leading = false
		w.did.stepsDown++
		return true
	}
	ms, _ := members(m.log)
	if !slices.ContainsFunc(ms, func(x Member) bool { return x.Voter == f.voter() }) {
		return false
	}
	if f.term == m.term && len(f.log) == len(m.log) && m.match[f.voter()] == len(m.log) {
		return false
	}
	f.term, f.leading, f.log = m.term, false, m.log
	m.match = maps.Clone(m.match)
	m.match[f.voter()] = len(m.log)
	w.commit(i)
	return true
}

// commit moves the leader's commit index and tells who waits.
func (w *world) commit(i int) {
	m := &w.machines[i]
	ms, index := members(m.log)
	vs := voters(ms)
	at := m.commit
	for k := len(m.log); k > m.commit && m.log[k-1].term == m.term; k-- {
		n := 0
		for _, v := range vs {
			if m.match[v] >= k {
				n++
			}
		}
		if n >= len(vs)/2+1 {
			at = k
			break
		}
	}
	for k := m.commit; k < at; k++ {
		if m.log[k].cmd != 0 {
			w.acked = append(slices.Clone(w.acked), m.log[k].cmd)
			w.did.acknowledged++
		}
	}
	m.commit = max(m.commit, at)
	if index > m.commit || m.commit == 0 || m.log[m.commit-1].term != m.term {
		return
	}
	for _, v := range vs {
		if j := w.server(m.gen, v); j >= 0 && len(w.machines[j].log) > 0 && w.forgot[v.Name] {
			w.forgot = maps.Clone(w.forgot)
			delete(w.forgot, v.Name)
		}
	}
}

// command lets the leader append something that a client wants.
func (w *world) command(i int) bool {
	if !w.machines[i].leading {
		return false
	}
	w.append(i, entry{cmd: w.number()})
	w.commit(i)
	return true
}

// look asks every other master who lives, for the next step of membership.
func (w *world) look(i int) bool {
	m := &w.machines[i]
	if !m.leading {
		return false
	}
	m.living = map[string]string{m.name: m.incarnation()}
	for _, name := range w.names {
		if j := w.find(i, name); name != m.name && j >= 0 && w.both(i, j) {
			m.living[name] = w.machines[j].incarnation()
		}
	}
	return true
}

// step makes one change of membership from what look saw, which may be old by now.
func (w *world) step(i int) bool {
	m := &w.machines[i]
	if !m.leading || m.living == nil || m.commit == 0 || m.log[m.commit-1].term != m.term {
		return false
	}
	ms, index := members(m.log)
	if index > m.commit {
		return false
	}
	list := slices.Clone(ms)
	for k := range list {
		list[k].CaughtUp = m.match[list[k].Voter] >= len(m.log)
	}
	s := Replacement(w.names, list, m.living)
	m.living = nil
	next := make([]Member, 0, len(ms)+1)
	for _, x := range ms {
		if x.Voter != s.Who {
			next = append(next, x)
		}
	}
	switch s.Kind {
	case Nothing:
		return false
	case AddLearner:
		next = append(next, Member{Voter: s.Who})
		w.did.learners++
	case AddVoter:
		next = append(next, Member{Voter: s.Who, Votes: true})
		w.did.replaced++
	}
	w.say("%s: change of membership %d %v → %v", m.name, s.Kind, s.Who, next)
	w.append(i, entry{members: next})
	w.commit(i)
	return true
}

// What must never be.

// alive says whether a generation could elect a leader once everything that is on, or
// remembers, were connected.
func (w *world) alive(g Generation) bool {
	for i := range w.machines {
		m := &w.machines[i]
		if m.member && m.gen == g {
			if _, ok := w.electable(i, func(int, int) bool { return true }); ok {
				return true
			}
		}
	}
	return false
}

// wrong names the first thing that must never be and is.
func (w *world) wrong() string {
	var living []Generation
	seen := map[Generation]bool{}
	for i := range w.machines {
		m := &w.machines[i]
		if !m.member || seen[m.gen] {
			continue
		}
		seen[m.gen] = true
		if !w.alive(m.gen) {
			continue
		}
		living = append(living, m.gen)
		if w.counted[m.gen.ID] {
			continue
		}
		w.born(m.gen)
	}
	if len(living) > 1 {
		return fmt.Sprintf("two live quorums: %v", living)
	}
	if len(living) == 1 {
		for _, c := range w.acked {
			if !w.holds(living[0], c) {
				return fmt.Sprintf("command %d was acknowledged, and generation %s does not hold it", c, living[0].ID)
			}
		}
	}
	return ""
}

// holds says whether every server that could lead a generation has a command.
func (w *world) holds(g Generation, cmd int) bool {
	for i := range w.machines {
		m := &w.machines[i]
		if !m.member || m.gen != g {
			continue
		}
		if _, ok := w.electable(i, func(int, int) bool { return true }); ok && !slices.Contains(commands(m.log), cmd) {
			return false
		}
	}
	return true
}

// born counts a birth once it has a quorum, and forgives what only masters knew that
// could not be heard in time.
func (w *world) born(g Generation) {
	w.counted = maps.Clone(w.counted)
	w.counted[g.ID] = true
	w.did.births++
	var base []int
	for i := range w.machines {
		if m := &w.machines[i]; m.member && m.gen == g && len(m.log) > 0 {
			base = m.log[0].base
		}
	}
	if len(base) == 0 {
		w.did.empty++
	} else {
		w.did.rebirths++
	}
	var kept []int
	for _, c := range w.acked {
		if slices.Contains(base, c) || slices.Contains(w.origin[g.ID], c) {
			kept = append(kept, c)
		} else {
			w.did.forgiven++
		}
	}
	w.acked = kept
}
