package doors

import (
	"net"
	"testing"
)

// from is a connection that says where it comes from.
type from struct {
	net.Conn
	at     string
	closed *int
}

func (f from) RemoteAddr() net.Addr {
	at, err := net.ResolveTCPAddr("tcp", f.at)
	if err != nil {
		panic(err)
	}
	return at
}

func (f from) Close() error { *f.closed++; return nil }

func TestOneAddressGetsNoMoreThanItsShare(t *testing.T) {
	var s crowds
	closed := 0
	var in []net.Conn
	for range mostPerAddress {
		c := s.enter(from{at: "10.88.1.2:1", closed: &closed})
		if c == nil {
			t.Fatalf("connection %d was refused", len(in))
		}
		in = append(in, c)
	}
	if s.enter(from{at: "10.88.1.2:2", closed: &closed}) != nil || closed != 1 {
		t.Errorf("one more came in, or was left open (%d closed)", closed)
	}
	for _, other := range []string{"10.88.1.3:1", "[fe80::1%eth0]:1", "127.0.0.1:1"} {
		if s.enter(from{at: other, closed: &closed}) == nil {
			t.Errorf("%s was refused for another's sake", other)
		}
	}
	in[0].Close()
	in[0].Close() // counts once
	if s.enter(from{at: "[::ffff:10.88.1.2]:3", closed: &closed}) == nil {
		t.Error("a place that became free is not given")
	}
	if s.enter(from{at: "10.88.1.2:4", closed: &closed}) != nil {
		t.Error("one more than the share came in")
	}
}
