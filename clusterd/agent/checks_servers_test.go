package agent

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

func portOf(l net.Listener) uint32 { return uint32(l.Addr().(*net.TCPAddr).Port) }

// serveHere gives the port of a server on this machine.
func serveHere(t *testing.T, h http.Handler) uint32 {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return portOf(s.Listener)
}

func newTLSServer(t *testing.T) uint32 {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(s.Close)
	return portOf(s.Listener)
}

// serveRaw says one thing to everybody who asks.
func serveRaw(t *testing.T, say string) uint32 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096)) // it has asked
			_, _ = c.Write([]byte(say))
			c.Close()
		}
	}()
	return portOf(l)
}
