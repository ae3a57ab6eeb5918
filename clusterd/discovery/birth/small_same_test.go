package birth

import "testing"

// outline is what a scene is without ids, numbers and letters: who is on, leads, belongs
// together, votes where, and holds and has forgotten what.
type outline struct {
	machine       [most]outlined
	acked, forgot uint8
	reboots       uint8
}

type outlined struct {
	up, member, leading, held, founding bool
	with                                uint8 // who belongs to the same generation
	votes, vacant, learns               uint8 // who votes in its newest configuration, and lives
	commands, kept                      uint8
}

func (w *smallWorld) outline(s *scene) outline {
	o := outline{acked: s.acked, forgot: s.forgot, reboots: s.left.reboots}
	for i := range w.n {
		p, m := &s.p[i], &o.machine[i]
		*m = outlined{up: p.up, member: p.member, leading: p.leading, held: p.held, founding: p.birth.on, commands: p.log.commands(), kept: p.left.commands()}
		for j := range w.n {
			f := &s.p[j]
			if p.member && f.member && p.gen == f.gen {
				m.with |= 1 << j
			}
			switch v := p.log.voter[j]; {
			case v != 0 && v == f.incarnation:
				m.votes |= 1 << j
			case v == 0:
				m.vacant |= 1 << j
			}
			if v := p.log.learner[j]; v != 0 && v == f.incarnation {
				m.learns |= 1 << j
			}
		}
	}
	return o
}

// What merge and settle leave out leads nowhere else: with and without them the same
// outlines are reached, in fewer states.
func TestMergedIsPlain(t *testing.T) {
	for _, c := range []smallSearch{{}, {faults: budgets{hasty: 1}}, {faults: budgets{lost: 1}}, {faults: budgets{reboots: 1}}, {disks: true, faults: budgets{reboots: 1}}} {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			var seen [2]map[outline]bool
			var states [2]int
			for k := range seen {
				w := newSmallWorld(3, c.disks, 6)
				w.plain = k == 0
				outlines := map[outline]bool{}
				seen[k] = outlines
				x := &search{w: w, limit: *maxStates, visited: func(s *scene) { outlines[w.outline(s)] = true }}
				c.faults.commands = 1
				x.run(w.first(c.faults))
				states[k] = len(x.links)
				if !x.ended || x.why != "" {
					t.Fatalf("plain %v: ended %v, %s", w.plain, x.ended, x.why)
				}
			}
			t.Logf("%d states, merged %d; %d outlines", states[0], states[1], len(seen[0]))
			if states[1] >= states[0] || len(seen[0]) < 20 {
				t.Error("nothing was merged: this proves nothing")
			}
			for k, name := range [...]string{"plain", "merged"} {
				for o := range seen[k] {
					if !seen[1-k][o] {
						t.Fatalf("only %s reaches %+v", name, o)
					}
				}
			}
		})
	}
}
