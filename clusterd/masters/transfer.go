package masters

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/mesolith/mesolith/internal/wire"
	birthwire "github.com/mesolith/mesolith/internal/wire/birth"
)

// A whole state may be larger than any frame: it follows its request or answer in
// chunks, and a conversation has time for as long as something arrives.

const (
	talkTime = 10 * time.Second
	// maxTalk bounds a request or an answer without its state.
	maxTalk = 1 << 20
	// chunkBytes is the size of the parts that a state travels in.
	chunkBytes = 1 << 20
	// maxState bounds the state that a master takes from another: many times what a
	// cluster of 10,000 nodes and 100,000 tasks has.
	maxState = 4 << 30
)

// request and reply are messages with the state that follows them.
type (
	request struct {
		*birthwire.Request
		state []byte
	}
	reply struct {
		*birthwire.Answer
		state []byte
	}
)

func (r request) write(w io.Writer) error {
	if f := r.GetFound(); f != nil {
		f.SnapshotBytes = uint64(len(r.state))
	}
	if err := wire.Write(w, r.Request); err != nil {
		return err
	}
	return writeState(w, r.state)
}

func readRequest(r io.Reader) (request, error) {
	out := request{Request: &birthwire.Request{}}
	if err := wire.Read(r, out.Request, maxTalk); err != nil {
		return out, err
	}
	var err error
	out.state, err = readState(r, out.GetFound().GetSnapshotBytes())
	return out, err
}

func (r reply) write(w io.Writer) error {
	r.StateBytes = uint64(len(r.state))
	if err := wire.Write(w, r.Answer); err != nil {
		return err
	}
	return writeState(w, r.state)
}

func readReply(r io.Reader) (reply, error) {
	out := reply{Answer: &birthwire.Answer{}}
	if err := wire.Read(r, out.Answer, maxTalk); err != nil {
		return out, err
	}
	var err error
	out.state, err = readState(r, out.GetStateBytes())
	return out, err
}

func writeState(w io.Writer, state []byte) error {
	for len(state) > 0 {
		n := min(len(state), chunkBytes)
		if err := wire.Write(w, &birthwire.Chunk{Part: state[:n]}); err != nil {
			return fmt.Errorf("send a state: %w", err)
		}
		state = state[n:]
	}
	return nil
}

// readState grows with what really arrives, whatever was announced.
func readState(r io.Reader, announced uint64) ([]byte, error) {
	if announced > maxState {
		return nil, fmt.Errorf("a state of %d bytes is announced: %w (%d)", announced, wire.ErrTooLong, int64(maxState))
	}
	var state []byte
	for uint64(len(state)) < announced {
		c := &birthwire.Chunk{}
		if err := wire.Read(r, c, chunkBytes+64); err != nil {
			return nil, fmt.Errorf("receive a state, %d of %d bytes are here: %w", len(state), announced, err)
		}
		if len(c.GetPart()) == 0 || uint64(len(state)+len(c.GetPart())) > announced {
			return nil, fmt.Errorf("receive a state of %d bytes: a part of %d bytes after %d", announced, len(c.GetPart()), len(state))
		}
		state = append(state, c.GetPart()...)
	}
	return state, nil
}

// patient gives every read and write its own time.
type patient struct{ net.Conn }

// Read implements io.Reader.
func (p patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(talkTime)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// Write implements io.Writer.
func (p patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(talkTime)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// ask sends one request and reads its answer.
func (m *Masters) ask(ctx context.Context, name string, r *birthwire.Request) (*birthwire.Answer, error) {
	a, err := m.askWith(ctx, name, request{Request: r})
	return a.Answer, err
}

func (m *Masters) askWith(ctx context.Context, name string, r request) (reply, error) {
	dialling, cancel := context.WithTimeout(ctx, talkTime)
	defer cancel()
	conn, err := m.cfg.Port.Dial(dialling, name, BirthALPN)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := r.write(patient{conn}); err != nil {
		return reply{}, err
	}
	a, err := readReply(patient{conn})
	if err != nil {
		return reply{}, fmt.Errorf("answer of %s: %w", name, err)
	}
	if who, _ := m.cfg.Port.Peer(conn); who != name || a.GetName() != name {
		return reply{}, fmt.Errorf("asked %s, and %s answered as %s", name, who, a.GetName())
	}
	return a, nil
}
