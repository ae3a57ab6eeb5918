package leader

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// queueFrames is how many frames may wait for an agent that reads slowly; the longest
// wait is after an attach, when everything it should run is sent again.
const queueFrames = 16384

// Status is what this master says of itself to agents.
type Status struct {
	Height     uint64
	Term       uint64
	Generation string
	Leader     string // name of the leader it knows; empty: none
}

// Desk is where agents' connections arrive on a master, whether it leads or not: they
// last over terms, so that a new leader finds its agents waiting. Leader and Desk share
// no state; an agent's messages go to whoever leads at that moment.
type Desk struct {
	// Heard is told the height of the newest generation that an agent obeyed; may be nil.
	Heard func(height uint64)

	name, incarnation string
	log               *slog.Logger

	mu     sync.Mutex
	status Status
	leader *Leader // nil while this master does not lead
	conns  map[*agentConn]bool
}

// NewDesk gives the desk of the named master.
func NewDesk(name, incarnation string, log *slog.Logger) *Desk {
	return &Desk{name: name, incarnation: incarnation, log: log, conns: map[*agentConn]bool{}}
}

// agentConn is one agent's connection.
type agentConn struct {
	desk  *Desk
	node  string // verified by the transport
	close func()

	attached state.AgentID // the leader's loop's own; "": by none in this term

	mu     sync.Mutex
	out    chan *agentwire.FromMaster
	broken bool
}

// send never blocks; an agent that does not read is cut off and comes back.
func (c *agentConn) send(height, term uint64, m *agentwire.FromMaster) {
	m.Height, m.Term = height, term
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return
	}
	select {
	case c.out <- m:
	default:
		c.broken = true
		c.close()
	}
}

// Lead tells every agent that this master leads; l answers them from now on.
func (d *Desk) Lead(l *Leader, s Status) {
	d.change(l, s)
}

// Follow tells every agent that this master does not lead, and who does.
func (d *Desk) Follow(s Status) {
	d.change(nil, s)
}

func (d *Desk) change(l *Leader, s Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leader, d.status = l, s
	for c := range d.conns {
		d.greet(c)
	}
}

// raised tells every agent that the leader's generation is higher now.
func (d *Desk) raised(l *Leader) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leader != l {
		return
	}
	for c := range d.conns {
		d.greet(c)
	}
}

// greet is called with the lock held, so that a connection hears of roles in order.
func (d *Desk) greet(c *agentConn) {
	height := d.status.Height
	if d.leader != nil {
		height = max(height, d.leader.Height())
	}
	c.send(height, d.status.Term, &agentwire.FromMaster{Body: &agentwire.FromMaster_Hello{Hello: &agentwire.MasterHello{
		Protocol: 1, Name: d.name, Incarnation: d.incarnation, Generation: d.status.Generation,
		Leading: d.leader != nil, Leader: d.status.Leader,
	}}})
}

// ServeAgent speaks agent/1 with one agent until the connection ends. peer is the name
// in the agent's certificate.
func (d *Desk) ServeAgent(ctx context.Context, peer string, rw io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer rw.Close()
	wg.Go(func() {
		<-ctx.Done()
		rw.Close()
	})
	first := &agentwire.FromAgent{}
	if err := wire.Read(rw, first, 1<<16); err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil || hello.GetProtocol() != 1 {
		return fmt.Errorf("agent %s began with %T, protocol %d: expected Hello, protocol 1", peer, first.GetBody(), hello.GetProtocol())
	}
	if hello.GetName() != peer {
		return fmt.Errorf("agent %s calls itself %q: its certificate says otherwise", peer, hello.GetName())
	}
	if d.Heard != nil {
		d.Heard(hello.GetHeight())
	}
	c := &agentConn{desk: d, node: peer, close: func() { rw.Close() }, out: make(chan *agentwire.FromMaster, queueFrames)}
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-c.out:
				if err := wire.Write(rw, m); err != nil {
					rw.Close()
					return
				}
			}
		}
	})
	d.mu.Lock()
	d.conns[c] = true
	d.greet(c)
	d.mu.Unlock()
	defer d.left(c)
	for {
		m := &agentwire.FromAgent{}
		if err := wire.Read(rw, m, wire.MaxFrame); err != nil {
			if err == io.EOF || ctx.Err() != nil {
				return nil
			}
			return err
		}
		if l := d.present(); l != nil {
			l.fromAgent(ctx, c, m)
		}
	}
}

func (d *Desk) present() *Leader {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leader
}

func (d *Desk) left(c *agentConn) {
	d.mu.Lock()
	delete(d.conns, c)
	l := d.leader
	d.mu.Unlock()
	if l != nil {
		l.agentLeft(c)
	}
}
