package leader

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/streams"
	"google.golang.org/protobuf/proto"
)

// framework subscribes for as long as ctx lasts, launches what is not launched yet, and
// acknowledges as carelessly as it may.
func (x *chain) framework(ctx context.Context) {
	id, launched := "", 0
	for ctx.Err() == nil {
		x.mu.Lock()
		l := x.c.l
		life, cancel := context.WithCancel(ctx)
		x.stream = cancel
		x.mu.Unlock()
		x.serve(life, l, &id, &launched)
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// serve is one subscription, until its stream ends.
func (x *chain) serve(ctx context.Context, l *Leader, id *string, launched *int) {
	info := &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String("f"), FailoverTimeout: proto.Float64(1e6),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_PARTITION_AWARE.Enum()}},
	}
	if *id != "" {
		info.Id = &mesosv1.FrameworkID{Value: id}
	}
	stream := streams.New(fmt.Sprint(time.Now()), streams.Protobuf, streams.DefaultMaxBytes)
	r, w := io.Pipe()
	var all sync.WaitGroup
	defer all.Wait()
	defer r.Close()
	all.Go(func() {
		stream.Serve(ctx, pipeWriter{w, http.Header{}})
		w.Close()
	})
	err := l.Subscribe(ctx, "", &scheduler.Call{Type: scheduler.Call_SUBSCRIBE.Enum(), Subscribe: &scheduler.Call_Subscribe{FrameworkInfo: info}}, stream)
	if err != nil {
		stream.Close(nil)
		return
	}
	x.mu.Lock()
	x.note("subscribed in term %d", l.cfg.Term)
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		x.note("stream over")
		x.mu.Unlock()
	}()
	f := &subscriber{t: x.t, l: l, stream: stream}
	records := recordio.NewReader(bufio.NewReader(r), 8<<20)
	for {
		x.mu.Lock()
		unread := time.Until(x.unread)
		x.mu.Unlock()
		if unread > 0 {
			time.Sleep(unread)
		}
		raw, err := records.Next()
		if err != nil {
			return
		}
		e := &scheduler.Event{}
		if err := proto.Unmarshal(raw, e); err != nil {
			x.t.Error(err)
			return
		}
		switch e.GetType() {
		case scheduler.Event_SUBSCRIBED:
			*id = e.GetSubscribed().GetFrameworkId().GetValue()
			f.id = *id
		case scheduler.Event_OFFERS:
			x.launch(ctx, f, e.GetOffers().GetOffers()[0], launched)
		case scheduler.Event_UPDATE:
			x.hear(ctx, f, e.GetUpdate().GetStatus(), &all)
		}
	}
}

// launch begins one task an offer. Whether a call that failed was carried out is not
// known: its task is asked for under another name.
func (x *chain) launch(ctx context.Context, f *subscriber, offer *mesosv1.Offer, launched *int) {
	if *launched >= chainTasks {
		return
	}
	*launched++
	_ = f.accept(offer, fmt.Sprintf("t%d", *launched), 0.1)
}

// hear notes an update and acknowledges it, or not, or late, or twice.
func (x *chain) hear(ctx context.Context, f *subscriber, st *mesosv1.TaskStatus, all *sync.WaitGroup) {
	x.mu.Lock()
	defer x.mu.Unlock()
	task, uuid := st.GetTaskId().GetValue(), string(st.GetUuid())
	x.note("heard %s %s %x", task, st.GetState(), uuid)
	x.states[task] = st.GetState()
	if uuid == "" {
		return
	}
	if container := st.GetContainerStatus().GetContainerId().GetValue(); !slices.Contains(x.heard[container], uuid) {
		x.heard[container] = append(x.heard[container], uuid)
	}
	times, pause := 1, time.Duration(0)
	switch {
	case x.chance(0.2):
		x.fire("acknowledgement lost")
		return
	case x.chance(0.2):
		x.fire("acknowledgement late")
		pause = time.Duration(x.rng.IntN(90_000)) * time.Millisecond
	case x.chance(0.2):
		x.fire("acknowledgement repeated")
		times = 2
	case x.chance(0.1):
		x.fire("acknowledgement of nothing")
		uuid = string(make([]byte, 16))
	}
	if uuid == string(st.GetUuid()) {
		x.acked[uuid] = true
	}
	call := &scheduler.Call{Type: scheduler.Call_ACKNOWLEDGE.Enum(), Acknowledge: &scheduler.Call_Acknowledge{
		AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: []byte(uuid),
	}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String(f.id)}}
	all.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		for range times {
			err := f.l.Do(ctx, "", f.stream.ID(), call) // the stream may be over: it comes again
			x.mu.Lock()
			x.note("acknowledged %s %x: %v", task, uuid, err)
			x.mu.Unlock()
		}
	})
}
