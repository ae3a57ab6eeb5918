package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// qmp is a connection in QEMU's machine protocol: JSON objects, one per line; answers
// carry the id of their command, events come in between.
type qmp struct {
	conn   net.Conn
	mu     sync.Mutex
	nextID uint64
	wait   map[uint64]chan reply
	events map[string]int
	ended  error
}

type reply struct {
	value json.RawMessage
	err   error
}

type qmpMessage struct {
	QMP    json.RawMessage `json:"QMP"`
	ID     uint64          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

// maxMessage bounds one message of QEMU's.
const maxMessage = 4 << 20

func newQMP(ctx context.Context, conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, wait: map[uint64]chan reply{}, events: map[string]int{}}
	go q.read()
	if _, err := q.execute(ctx, "qmp_capabilities", nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// read ends with the connection, which ends with QEMU.
func (q *qmp) read() {
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(make([]byte, 0, 4<<10), maxMessage)
	for lines.Scan() {
		var m qmpMessage
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			q.end(fmt.Errorf("QEMU's message: %w", err))
			return
		}
		q.take(m)
	}
	if err := lines.Err(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		q.end(fmt.Errorf("QEMU's control socket: %w", err))
		return
	}
	q.end(ErrEnded)
}

func (q *qmp) take(m qmpMessage) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if m.Event != "" {
		q.events[m.Event]++
		return
	}
	ch := q.wait[m.ID]
	if ch == nil {
		return
	}
	delete(q.wait, m.ID)
	if m.Error != nil {
		ch <- reply{err: fmt.Errorf("%s: %s", m.Error.Class, m.Error.Desc)}
		return
	}
	ch <- reply{value: m.Return}
}

func (q *qmp) end(err error) {
	q.conn.Close()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = err
	for id, ch := range q.wait {
		ch <- reply{err: err}
		delete(q.wait, id)
	}
}

func (q *qmp) close() { q.conn.Close() }

func (q *qmp) count(event string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.events[event]
}

func (q *qmp) execute(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	ch := make(chan reply, 1)
	q.mu.Lock()
	if q.ended != nil {
		q.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", command, q.ended)
	}
	q.nextID++
	id := q.nextID
	q.wait[id] = ch
	q.mu.Unlock()
	body, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	if _, err := q.conn.Write(append(body, '\n')); err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	select {
	case r := <-ch:
		if r.err != nil {
			return nil, fmt.Errorf("%s: %w", command, r.err)
		}
		return r.value, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", command, ctx.Err())
	}
}
