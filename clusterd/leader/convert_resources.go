package leader

import (
	"crypto/rand"
	"errors"
	"fmt"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// underWay keeps what a proposal will take from being offered meanwhile, and counts it for
// who will have it. done ends that.
func (l *Leader) underWay(agent state.AgentID, by holder, rs state.Resources) (done func(), err error) {
	taking, err := l.launching[agent].Plus(rs)
	if err != nil {
		return nil, err
	}
	counted := by.role != "" // or nobody will have it
	if counted {
		holding, err := l.launchingBy[by].Plus(rs)
		if err != nil {
			return nil, err
		}
		l.launchingBy[by] = holding
	}
	l.launching[agent] = taking
	return func() {
		if l.launching[agent], _ = l.launching[agent].Minus(rs); len(l.launching[agent]) == 0 {
			delete(l.launching, agent)
		}
		if counted {
			if l.launchingBy[by], _ = l.launchingBy[by].Minus(rs); len(l.launchingBy[by]) == 0 {
				delete(l.launchingBy, by)
			}
		}
		l.allocate = true
	}, nil
}

// convert carries out an operation of an ACCEPT that makes resources something else. What
// follows it in the same call sees them so, and in the log it follows.
func (l *Leader) convert(acc *acceptance, op *mesosv1.Offer_Operation) {
	fail := func(why string) {
		l.failOperation(acc.f, op, mesosv1.OperationState_OPERATION_ERROR, acc.agent, "invalid "+op.GetType().String()+" operation: "+why)
	}
	if why := l.forbiddenOperation(acc.f.principal, op, acc.left); why != "" {
		l.failOperation(acc.f, op, mesosv1.OperationState_OPERATION_ERROR, acc.agent, why)
		acc.refused(op.GetType().String(), why)
		return
	}
	c, err := conversionOf(op, converter{principal: acc.f.info.GetPrincipal(), role: acc.role, caps: acc.f.caps})
	if err != nil {
		fail(err.Error())
		return
	}
	if !acc.left.Hold(c.take) {
		fail(fmt.Sprintf("it needs %s, and of the offers there is %s", c.take, acc.left))
		return
	}
	left, _ := acc.left.Minus(c.take)
	if left, err = left.Plus(c.give); err != nil {
		fail(err.Error())
		return
	}
	command := state.ConvertResources{Agent: acc.agent, Take: c.take, Give: c.give, Framework: acc.f.id}
	if op.GetId() != nil {
		if err := checkID("operation id", op.GetId().GetValue()); err != nil {
			fail(err.Error())
			return
		}
		command.Operation, command.UUID = state.OperationID(op.GetId().GetValue()), newUUID()
		if command.Info, err = (proto.MarshalOptions{AllowPartial: true}).Marshal(op); err != nil {
			fail("it cannot be stored: " + err.Error())
			return
		}
	}
	key := operationKey{acc.f.id, command.Operation}
	if command.Operation != "" && l.operationUsed(key) {
		fail("operation " + string(key.operation) + ": operation id is in use")
		return
	}
	done, err := l.underWay(acc.agent, holder{acc.role, acc.f.id}, c.take)
	if err != nil {
		fail(err.Error())
		return
	}
	acc.left = left
	acc.open++
	if command.Operation != "" {
		l.converting[key] = nil
	}
	l.propose(command, func(_ state.Result, err error) {
		done()
		waiting := l.converting[key]
		delete(l.converting, key)
		defer func() {
			for _, f := range waiting {
				f()
			}
		}()
		switch {
		case err == nil:
			l.converted(acc.agent, c)
			if command.Operation != "" {
				l.tellOperation(key, retryFirst)
			}
		case errors.Is(err, state.ErrAgentUnknown), errors.Is(err, state.ErrAgentUnreachable), errors.Is(err, state.ErrAgentDeactivated):
			l.failOperation(acc.f, op, mesosv1.OperationState_OPERATION_DROPPED, acc.agent, err.Error())
			err = nil
		case isRefusal(err):
			acc.broken = true
			fail(err.Error())
			err = nil
		}
		if acc.broken {
			l.keepPromises(acc.agent)
		}
		acc.finish(err)
	})
}

// operationUsed says whether an operation of this id is under way, or not acknowledged.
func (l *Leader) operationUsed(key operationKey) (used bool) {
	if _, used = l.converting[key]; !used {
		l.cfg.Machine.View(func(s *state.State) { _, used = s.Operation(key.framework, key.operation) })
	}
	return used
}

// keepPromises takes back what is offered of an agent and not there any more: where one
// operation of an ACCEPT was refused, those after it may have found what they need among
// what is somebody else's.
func (l *Leader) keepPromises(id state.AgentID) {
	var free state.Resources
	l.cfg.Machine.View(func(s *state.State) {
		if a, ok := s.Agent(id); ok {
			free = a.Free()
		}
	})
	list := l.book.OfAgent(id)
	for i := len(list) - 1; i >= 0 && !free.Contains(l.book.Offered(id)); i-- {
		l.rescind(list[i])
	}
}

// converted has an agent know what was made of its resources.
func (l *Leader) converted(agent state.AgentID, c conversion) {
	l.log.Info("resources converted", "agent", agent, "from", c.take.String(), "to", c.give.String())
	l.rescindShared(agent, c.take)
	l.sendMade(agent)
}

// rescindShared takes back the offers that hold a shared volume which is no more: it was
// offered whoever else had it.
func (l *Leader) rescindShared(agent state.AgentID, gone state.Resources) {
	if !gone.AnyShared() {
		return
	}
	for _, o := range l.book.OfAgent(agent) {
		for _, r := range gone {
			if r.Shared() && o.Resources.Contains(state.Resources{r}) {
				l.rescind(o)
				break
			}
		}
	}
}

// sendMade tells an agent all that was made of its resources.
func (l *Leader) sendMade(id state.AgentID) {
	m := &agentwire.Made{}
	known := false
	l.cfg.Machine.View(func(s *state.State) {
		a, ok := s.Agent(id)
		if !ok {
			return
		}
		known = true
		made := a.Total.Made()
		for i, r := range ToWire(made, "") {
			raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(r)
			if err != nil {
				l.log.Error("a resource cannot be told to its agent, which keeps what it has", "agent", id, "error", err)
				known = false
				return
			}
			one := &agentwire.MadeResource{Resource: raw}
			if seen := made[i].Mounting; seen != nil {
				one.Serial = seen.Serial
			}
			m.Resources = append(m.Resources, one)
		}
	})
	if known {
		l.toAgent(id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Made{Made: m}})
	}
}

func newUUID() []byte {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return b[:]
}
