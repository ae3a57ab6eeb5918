package calls

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/forward"
)

// pipeEnd is one direction of a connection, in memory.
type pipeEnd struct {
	net.Conn
	bytes.Buffer
}

func (p *pipeEnd) Read(b []byte) (int, error)       { return p.Buffer.Read(b) }
func (p *pipeEnd) Write(b []byte) (int, error)      { return p.Buffer.Write(b) }
func (p *pipeEnd) SetWriteDeadline(time.Time) error { return nil }

func TestForwardConn(t *testing.T) {
	end := &pipeEnd{}
	if err := wire.Write(end, &forward.Caller{Protocol: 1, Node: "a1", Remote: "10.0.0.9"}); err != nil {
		t.Fatal(err)
	}
	out := &leaderConn{Conn: end}
	text := strings.Repeat("0123456789", 300_000) // several chunks
	for _, part := range []string{"GET / HTTP/1.1\r\n", "", text} {
		if n, err := out.Write([]byte(part)); err != nil || n != len(part) {
			t.Fatalf("%d, %v", n, err)
		}
	}
	out.sayCallerLeft()
	out.sayCallerLeft()
	in := &callerConn{Conn: end, peer: "a1"}
	got, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "GET / HTTP/1.1\r\n"+text {
		t.Errorf("%d bytes came", len(got))
	}
	if !in.callerLeft.Load() || in.caller.Load().GetRemote() != "10.0.0.9" {
		t.Errorf("left %v, caller %v", in.callerLeft.Load(), in.caller.Load())
	}
}

// A link that breaks is not a caller that left.
func TestForwardConnBroken(t *testing.T) {
	for name, tail := range map[string][]byte{"between chunks": nil, "in a length": {0, 0}, "in a chunk": {0, 0, 0, 9, 'x'}} {
		end := &pipeEnd{}
		if err := wire.Write(end, &forward.Caller{Protocol: 1}); err != nil {
			t.Fatal(err)
		}
		end.Buffer.Write(tail)
		in := &callerConn{Conn: end}
		if _, err := io.ReadAll(in); name == "in a length" && err == nil {
			t.Errorf("%s: no error", name)
		}
		if in.callerLeft.Load() {
			t.Errorf("%s: taken for a caller that left", name)
		}
	}
}

func TestForwardConnOtherNode(t *testing.T) {
	end := &pipeEnd{}
	if err := wire.Write(end, &forward.Caller{Protocol: 1, Node: "m1"}); err != nil {
		t.Fatal(err)
	}
	_, err := (&callerConn{Conn: end, peer: "a1"}).Read(make([]byte, 1))
	if err == nil || !strings.Contains(err.Error(), "node a1 forwards in the name of m1") {
		t.Errorf("%v", err)
	}
}

func FuzzCallerConn(f *testing.F) {
	hello, err := wire.Append(nil, &forward.Caller{Protocol: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(binary.BigEndian.AppendUint32(nil, 1<<31))
	f.Add(append(bytes.Clone(hello), 0, 0, 0, 2, 'a', 'b', 0, 0, 0, 0, 'c'))
	f.Fuzz(func(t *testing.T, in []byte) {
		end := &pipeEnd{}
		end.Buffer.Write(in)
		got, _ := io.ReadAll(&callerConn{Conn: end})
		if len(got) > len(in) {
			t.Fatalf("%d bytes out of %d", len(got), len(in))
		}
	})
}
