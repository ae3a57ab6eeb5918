package birth

import (
	"fmt"
	"time"
)

// Two machines under one master's name would have two votes: each could help a generation
// of its own to a quorum. So a master that meets a live other incarnation of its name
// stops voting, whichever of the two is the right one, until it is started again: nobody
// but the operator can know which machine is meant. What was heard of a twin is no proof:
// a beacon may be old, recorded or forged. Only an answer to a challenge made now counts.

type (
	// TwinHeard: another incarnation of this master's name spoke on the LAN.
	TwinHeard struct {
		Now                  time.Time
		Incarnation, Address string
	}
	// TwinLives: asked at its address just now, that incarnation proved with a valid
	// certificate of this cluster that it lives.
	TwinLives struct {
		Now                  time.Time
		Own                  string // this master's incarnation, as its certificate says
		Incarnation, Address string
	}
)

func (TwinHeard) event() {}
func (TwinLives) event() {}

type (
	// ProveTwin: challenge whoever is at the address; TwinLives is the answer.
	ProveTwin struct{ Address string }
	// Stop voting, for good.
	Stop struct{ Why string }
)

func (ProveTwin) action() {}
func (Stop) action()      {}

// Stopped says that this master votes, promises and founds no more.
func (s State) Stopped() bool { return s.stopped }

// twinHeard asks for proof, at most once in a while: a recorded beacon may come often.
func (s State) twinHeard(e TwinHeard) (State, []Action) {
	if !s.twinAsked.IsZero() && e.Now.Sub(s.twinAsked) < s.cfg.Quiet {
		return s, nil
	}
	s.twinAsked = e.Now
	return s, []Action{ProveTwin{e.Address}}
}

// twinLives ends this master's part. An open promise to another stays: it binds nobody,
// and the program that is started after this one still knows it.
func (s State) twinLives(e TwinLives) (State, []Action) {
	if e.Incarnation == "" || e.Incarnation == e.Own {
		return s, nil // it met itself
	}
	why := fmt.Sprintf("%s has stopped voting: another machine named %s (incarnation %.40s at %s) lives and proved it. It is a cloned machine, a copied medium or an attacker: switch one of the two off, then restart the other", s.cfg.Self, s.cfg.Self, e.Incarnation, e.Address)
	s, actions := s.giveUp(why, e.Now)
	s.stopped, s.why = true, why
	return s, append(actions, Stop{why})
}

// answerStopped is all that a stopped master says.
func (s State) answerStopped(e Event) (State, []Action) {
	switch e.(type) {
	case Challenged:
		return s, []Action{Reply{Answer{Name: s.cfg.Self, ListVersion: s.cfg.ListVersion, Refused: s.why}}}
	case Asked:
		return s, []Action{Refuse{s.why}}
	}
	return s, nil
}
