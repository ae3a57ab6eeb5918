package leader

import (
	"context"
	"net"
	"time"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// chainKeeper is isolated as an agent sees it: containers that begin, run and end in
// their own time, whoever listens.
type chainKeeper struct {
	x          *chain
	conn       net.Conn
	out        chan *keeper.Response
	containers map[string]*keeper.Container // x.mu guards all of it
	forgotten  map[string]bool
}

func (k *chainKeeper) dial(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	k.x.all.Go(func() { k.serve(theirs) })
	return ours, nil
}

func (k *chainKeeper) drop() {
	k.x.mu.Lock()
	defer k.x.mu.Unlock()
	if k.conn != nil {
		k.conn.Close()
	}
}

func (k *chainKeeper) serve(c net.Conn) {
	out, over := make(chan *keeper.Response, 1000), make(chan struct{})
	defer close(over)
	defer c.Close()
	k.x.all.Go(func() {
		for {
			select {
			case m := <-out:
				if wire.Write(c, m) != nil {
					c.Close()
					return
				}
			case <-over:
				return
			}
		}
	})
	for {
		r := &keeper.Request{}
		if wire.Read(c, r, wire.MaxFrame) != nil {
			return
		}
		k.x.mu.Lock()
		resp := &keeper.Response{Id: r.GetId()}
		switch b := r.GetBody().(type) {
		case *keeper.Request_Hello:
			k.conn, k.out = c, out
			resp.Body = &keeper.Response_Hello{Hello: &keeper.Hello{Protocol: 1, Runtime: "containers"}}
		case *keeper.Request_List:
			list := &keeper.ContainerList{}
			for _, c := range k.containers {
				list.Containers = append(list.Containers, proto.CloneOf(c))
			}
			resp.Body = &keeper.Response_List{List: list}
		case *keeper.Request_Launch:
			k.launch(b.Launch)
		case *keeper.Request_Kill:
			k.x.t.Errorf("container %s is killed; nobody asked for that", b.Kill.GetContainerId())
		case *keeper.Request_Forget:
			for _, id := range b.Forget.GetContainerIds() {
				delete(k.containers, id)
				k.forgotten[id] = true
			}
		}
		out <- resp
		k.x.mu.Unlock()
	}
}

// launch begins a container's life, once.
func (k *chainKeeper) launch(l *keeper.Launch) {
	id := l.GetContainerId()
	if k.forgotten[id] {
		k.x.t.Errorf("container %s is launched again after its end", id)
	}
	if k.containers[id] != nil {
		return
	}
	k.containers[id] = &keeper.Container{ContainerId: id, TaskId: l.GetTaskId(), Phase: keeper.Container_ACCEPTED}
	var pauses []time.Duration
	for range 3 {
		pauses = append(pauses, time.Duration(k.x.rng.IntN(60_000))*time.Millisecond)
	}
	k.x.all.Go(func() {
		for i, phase := range []keeper.Container_Phase{keeper.Container_PREPARING, keeper.Container_RUNNING, keeper.Container_ENDED} {
			time.Sleep(pauses[i])
			k.tell(id, phase)
		}
	})
}

func (k *chainKeeper) tell(id string, phase keeper.Container_Phase) {
	k.x.mu.Lock()
	defer k.x.mu.Unlock()
	c := k.containers[id]
	if c == nil {
		return
	}
	c.Phase = phase
	c.Sequence++
	if k.out != nil {
		select {
		case k.out <- &keeper.Response{Body: &keeper.Response_Event{Event: proto.CloneOf(c)}}:
		default:
		}
	}
}
