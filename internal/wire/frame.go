// Package wire frames protobuf messages between Mesolith's own programs: a big-endian
// u32 length followed by that many bytes of one message. The same framing is used on
// the Unix sockets of a node (init.sock, isolated.sock, noded.sock) and on the mutual
// TLS connections between nodes (agent/1, birth/1, the first frame of forward/1).
//
// Invariant: a reader never allocates more than the bound it was given, whatever the
// peer sends; a frame longer than that is an error that names both figures.
//
// The message types live in the packages below this one, one a conversation. Who is
// at the other end is the transport's business (SO_PEERCRED, mutual TLS), not this one's.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// MaxFrame bounds one frame on every conversation, in bytes. The largest messages are
// an agent's Attach (all its tasks) and a batch of Runs.
const MaxFrame = 64 << 20

// ErrTooLong says that a frame is longer than the reader accepts; the connection is
// then useless, because the rest of the frame was not read.
var ErrTooLong = errors.New("frame is longer than accepted")

// Write sends one message as one frame in a single call of w.Write.
func Write(w io.Writer, m proto.Message) error {
	buf, err := Append(make([]byte, 0, 4+proto.Size(m)), m)
	if err != nil {
		return err
	}
	if _, err := w.Write(buf); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// Append appends the frame of one message to buf.
func Append(buf []byte, m proto.Message) ([]byte, error) {
	start := len(buf)
	buf = append(buf, 0, 0, 0, 0)
	buf, err := proto.MarshalOptions{}.MarshalAppend(buf, m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	n := len(buf) - start - 4
	if n > MaxFrame {
		return nil, fmt.Errorf("encode %s: %d bytes: %w (%d)", m.ProtoReflect().Descriptor().FullName(), n, ErrTooLong, MaxFrame)
	}
	binary.BigEndian.PutUint32(buf[start:], uint32(n))
	return buf, nil
}

// Read receives one frame of at most max bytes into m. It returns io.EOF, unwrapped,
// when the stream ends before the first byte of a frame.
func Read(r io.Reader, m proto.Message, max int) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("read frame length: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(max) {
		return fmt.Errorf("read frame of %d bytes: %w (%d)", n, ErrTooLong, max)
	}
	body, err := readBody(r, int(n))
	if err != nil {
		return fmt.Errorf("read frame body: %w", err)
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("decode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

// readBody grows with what really arrives, so that a length that lies costs nothing.
func readBody(r io.Reader, n int) ([]byte, error) {
	const step = 1 << 20
	if n <= step {
		body := make([]byte, n)
		_, err := io.ReadFull(r, body)
		return body, err
	}
	var body []byte
	for len(body) < n {
		chunk := min(step, n-len(body))
		at := len(body)
		body = append(body, make([]byte, chunk)...)
		if _, err := io.ReadFull(r, body[at:]); err != nil {
			return nil, err
		}
	}
	return body, nil
}
