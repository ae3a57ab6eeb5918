package zookeeper

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// helloFrame is a client's first frame, of a session that it has or, with 0, wants.
func helloFrame(timeout int32, session int64) []byte {
	return newFrame().int32(0).int64(0).int32(timeout).int64(session).bytes(make([]byte, passwordBytes)).boolean(false).done()
}

func ask(xid int32, op opcode, path string) []byte {
	return newFrame().int32(xid).int32(int32(op)).bytes([]byte(path)).boolean(true).done()
}

// wire is a client that sends what it likes.
type wire struct {
	t *testing.T
	net.Conn
}

// connect begins a session of a client and gives the timeout that it was granted.
func connect(t *testing.T, at string, timeout int32) (wire, int32) {
	t.Helper()
	w := call(t, at, helloFrame(timeout, 0))
	return w, w.granted()
}

// granted reads the answer to a first frame and gives the timeout in milliseconds.
func (w wire) granted() int32 {
	w.t.Helper()
	r := reader{rest: w.frame()}
	r.int32("version")
	granted := r.int32("timeout")
	if r.int64("session") == 0 || len(r.bytes("password")) != passwordBytes || r.boolean("read only") || r.err != nil || len(r.rest) != 0 {
		w.t.Fatalf("no session: %v", r.err)
	}
	return granted
}

// rest reads until the connection ends, however long that takes.
func (w wire) rest() []byte {
	w.t.Helper()
	w.SetReadDeadline(time.Time{})
	raw, err := io.ReadAll(w)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func call(t *testing.T, at string, send []byte) wire {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write(send); err != nil {
		t.Fatal(err)
	}
	return wire{t, c}
}

func (w wire) frame() []byte {
	w.t.Helper()
	w.SetReadDeadline(time.Now().Add(time.Minute))
	var head [4]byte
	if _, err := io.ReadFull(w, head[:]); err != nil {
		w.t.Fatal(err)
	}
	f := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(w, f); err != nil {
		w.t.Fatal(err)
	}
	return f
}

// ended waits for the connection's end and gives what came before it.
func (w wire) ended() []byte {
	w.t.Helper()
	w.SetReadDeadline(time.Now().Add(20 * time.Second))
	raw, err := io.ReadAll(w)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		w.t.Error("the connection was not ended")
	}
	return raw
}

// header reads an answer's.
func header(f []byte) (xid int32, code errorCode) {
	r := reader{rest: f}
	xid = r.int32("xid")
	r.int64("zxid")
	return xid, errorCode(r.int32("error"))
}

// pipe is a client of a server in virtual time, without a network.
func pipe(t *testing.T, s *Server, send []byte) wire {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(t.Context(), far)
	}()
	t.Cleanup(func() { near.Close(); <-done })
	if _, err := near.Write(send); err != nil {
		t.Fatal(err)
	}
	return wire{t, near}
}

func newServer(v View) *Server {
	s := New(Config{Path: "/mesos", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	s.Post(v)
	return s
}

func TestTimeoutsAreBounded(t *testing.T) {
	for wanted, want := range map[int32]int32{-5: 4000, 0: 4000, 10_000: 10_000, 1 << 30: 40_000} {
		synctest.Test(t, func(t *testing.T) {
			w := pipe(t, newServer(view(7, 1)), helloFrame(wanted, 0))
			if got := w.granted(); got != want {
				t.Errorf("asked for %d ms, was given %d, want %d", wanted, got, want)
			}
			// Pings keep it open, each for one timeout more.
			timeout := time.Duration(want) * time.Millisecond
			for range 3 {
				time.Sleep(timeout - time.Millisecond)
				if _, err := w.Write(newFrame().int32(-2).int32(int32(opPing)).done()); err != nil {
					t.Fatal(err)
				}
				if xid, code := header(w.frame()); xid != -2 || code != ok {
					t.Errorf("ping is answered %d, %d", xid, code)
				}
			}
			began := time.Now()
			if raw := w.rest(); len(raw) > 0 || time.Since(began) != timeout {
				t.Errorf("a silent client was left after %s, told %x", time.Since(began), raw)
			}
		})
	}
}

func TestAClientThatDoesNotBeginIsLeft(t *testing.T) {
	for _, part := range [][]byte{nil, {0}, helloFrame(1000, 0)[:20]} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			if raw := pipe(t, newServer(view(7, 1)), part).rest(); len(raw) > 0 || time.Since(began) != DefaultLimits.Hello {
				t.Errorf("%x is left after %s, told %x", part, time.Since(began), raw)
			}
		})
	}
}

// One that has seen more waits for this node to hear of it, and is left if it does not.
func TestWhoKnowsMoreIsNotToldLess(t *testing.T) {
	hello := func(zxid int64) []byte {
		return newFrame().int32(0).int64(zxid).int32(10_000).int64(11).bytes(password("g1", 11)).boolean(false).done()
	}
	synctest.Test(t, func(t *testing.T) {
		s := newServer(view(7, 1))
		began := time.Now()
		w := pipe(t, s, hello(int64(base(1, 8))<<32+3))
		time.Sleep(DefaultLimits.CatchUp / 2)
		s.Post(view(8, 2))
		if got := w.granted(); got != 10_000 || time.Since(began) != DefaultLimits.CatchUp/2 {
			t.Errorf("given %d ms after %s", got, time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newServer(view(7, 1))
		began := time.Now()
		if raw := pipe(t, s, hello(int64(base(1, 8))<<32+3)).rest(); len(raw) > 0 || time.Since(began) != DefaultLimits.CatchUp {
			t.Errorf("left after %s, told %x", time.Since(began), raw)
		}
		// Within a term nodes count for themselves.
		if got := pipe(t, s, hello(int64(base(1, 7))<<32+99)).granted(); got != 10_000 {
			t.Errorf("given %d ms", got)
		}
	})
}

// A client that does not read what it is told is left, and what it asked for is no more.
func TestOneThatDoesNotReadIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(view(7, 1))
		w := pipe(t, s, helloFrame(40_000, 0))
		w.granted()
		if _, err := w.Write(ask(1, opGetChildren2, "/mesos")); err != nil {
			t.Fatal(err)
		}
		header(w.frame())
		began := time.Now()
		s.Post(view(8, 2)) // of which it is told, and does not read
		synctest.Wait()
		if got := s.watches.Load(); got != 0 {
			t.Errorf("%d watches", got)
		}
		if _, err := w.Write(ask(2, opGetChildren2, "/mesos")); err == nil {
			if _, err = w.Write(ask(3, opGetChildren2, "/mesos")); err == nil {
				t.Error("its requests were taken in")
			}
		}
		if took := time.Since(began); took != writeWait {
			t.Errorf("it was left after %s", took)
		}
	})
}

func TestASessionOfElsewhereIsExpired(t *testing.T) {
	s, at := serve(t, Limits{})
	s.Post(view(7, 1))
	w := call(t, at, helloFrame(10_000, 4711))
	want := newFrame().int32(0).int32(0).int64(0).bytes(make([]byte, passwordBytes)).boolean(false).done()
	if got := w.ended(); !bytes.Equal(got, want) {
		t.Errorf("it was answered %x", got)
	}
	// Before 3.4 clients neither send nor read the last field.
	old := helloFrame(10_000, 4711)
	old = old[:len(old)-1]
	binary.BigEndian.PutUint32(old, uint32(len(old)-4))
	if got := call(t, at, old).ended(); len(got) != len(want)-1 {
		t.Errorf("an old client was answered %x", got)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	for what, limits := range map[string]Limits{"in all": {Connections: 3}, "of one address": {PerAddress: 3}} {
		t.Run(what, func(t *testing.T) {
			s, at := serve(t, limits)
			s.Post(view(7, 1))
			var in []wire
			for range 3 {
				w, _ := connect(t, at, 10_000)
				in = append(in, w)
			}
			if raw := call(t, at, nil).ended(); len(raw) > 0 {
				t.Errorf("one more was answered %x", raw)
			}
			if _, err := in[0].Write(newFrame().int32(1).int32(int32(opClose)).done()); err != nil {
				t.Fatal(err)
			}
			if xid, code := header(in[0].ended()[4:]); xid != 1 || code != ok {
				t.Errorf("close is answered %d, %d", xid, code)
			}
			for end := time.Now().Add(20 * time.Second); ; {
				s.mu.Lock()
				open := s.open
				s.mu.Unlock()
				if open == 2 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%d are counted after one has closed", open)
				}
				time.Sleep(time.Millisecond)
			}
			connect(t, at, 10_000)
		})
	}
}

// Who is turned away again and again is written of once a minute.
func TestTheLogIsNotFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := New(Config{Path: "/mesos", Now: time.Now, Log: slog.New(slog.NewTextHandler(&out, nil))})
		turn := func() {
			near, far := net.Pipe()
			s.turnAway(far, "too many")
			if _, err := near.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("it was not ended: %v", err)
			}
		}
		for range 100 {
			turn()
		}
		time.Sleep(sayEvery)
		turn()
		if got := strings.Count(out.String(), "turned away"); got != 2 || !strings.Contains(out.String(), "connections=100") {
			t.Errorf("written:\n%s", out.String())
		}
	})
}

func TestWatchesAreBounded(t *testing.T) {
	s, at := serve(t, Limits{Watches: 2})
	s.Post(view(7, 1))
	w, _ := connect(t, at, 10_000)
	long := "/" + strings.Repeat("x", maxPath)
	for i, test := range []struct {
		path string
		code errorCode
	}{{"/a", errNoNode}, {"/a", errNoNode}, {long, errSystem}, {"/b", errNoNode}, {"/c", errSystem}, {"/a", errNoNode}} {
		if _, err := w.Write(ask(int32(i), opExists, test.path)); err != nil {
			t.Fatal(err)
		}
		if xid, code := header(w.frame()); xid != int32(i) || code != test.code {
			t.Errorf("%d: %.10s is answered %d, %d", i, test.path, xid, code)
		}
	}
	// Watches that are set again count the same.
	again := newFrame().int32(-8).int32(int32(opSetWatches)).int64(0).texts([]string{"/a", "/b", "/c"}).texts(nil).texts(nil).done()
	if _, err := w.Write(again); err != nil {
		t.Fatal(err)
	}
	if xid, code := header(w.frame()); xid != -8 || code != errSystem {
		t.Errorf("three watches again: %d, %d", xid, code)
	}
	if got := s.watches.Load(); got != 2 {
		t.Errorf("%d watches are counted", got)
	}
}

// Whatever a client saw elsewhere: what is there is told of at once, what is not there and
// was waited for is waited for on.
func TestWatchesSetAgain(t *testing.T) {
	for _, op := range []opcode{opSetWatches, opSetWatches2} {
		s, at := serve(t, Limits{})
		s.Post(view(7, 1))
		w, _ := connect(t, at, 10_000)
		q := newFrame().int32(-8).int32(int32(op)).int64(1 << 60).texts([]string{"/mesos", "/gone"}).texts([]string{"/", "/coming"}).texts([]string{"/mesos", "/gone"})
		if op == opSetWatches2 {
			q = q.texts(nil).texts(nil)
		}
		if _, err := w.Write(q.done()); err != nil {
			t.Fatal(err)
		}
		want := []event{eventData, eventDeleted, eventChildren, eventDeleted, eventCreated}
		var got []event
		for {
			f := w.frame()
			xid, code := header(f)
			if xid == -8 {
				if code != ok {
					t.Errorf("answered %d", code)
				}
				break
			}
			r := reader{rest: f[16:]}
			got = append(got, event(r.int32("event")))
		}
		if !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		if n := s.watches.Load(); n != 1 {
			t.Errorf("%d watches are left", n)
		}
	}
}

func TestWrongFramesEndTheConnection(t *testing.T) {
	s, at := serve(t, Limits{})
	s.Post(view(7, 1))
	for what, send := range map[string][]byte{
		"too long":          {0, 1, 0, 1},
		"negative length":   {0xff, 0xff, 0xff, 0xff},
		"no request":        {0, 0, 0, 3, 1, 2, 3},
		"path too long":     newFrame().int32(1).int32(int32(opGetData)).int32(1 << 30).done(),
		"negative path":     newFrame().int32(1).int32(int32(opGetData)).int32(-7).done(),
		"many watches":      newFrame().int32(-8).int32(int32(opSetWatches)).int64(0).int32(1 << 30).done(),
		"other credentials": newFrame().int32(-4).int32(int32(opAuth)).int32(0).bytes([]byte("sasl")).bytes(nil).done(),
	} {
		w, _ := connect(t, at, 10_000)
		if _, err := w.Write(send); err != nil {
			t.Fatal(err)
		}
		raw := w.ended()
		if what != "other credentials" {
			if len(raw) > 0 {
				t.Errorf("%s: answered %x", what, raw)
			}
			continue
		}
		if xid, code := header(raw[4:]); xid != -4 || code != errAuthFailed {
			t.Errorf("%s: %d, %d", what, xid, code)
		}
	}
	w, _ := connect(t, at, 10_000)
	const addWatch = 106
	if _, err := w.Write(ask(1, addWatch, "/mesos")); err != nil {
		t.Fatal(err)
	}
	if xid, code := header(w.frame()); xid != 1 || code != errUnimplemented {
		t.Errorf("an operation of later versions: %d, %d", xid, code)
	}
}

// link is a way to a server that can be led to another one.
type link struct {
	t    *testing.T
	at   string
	mu   sync.Mutex
	goal string
	open []net.Conn
}

func newLink(t *testing.T, goal string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{t: t, at: l.Addr().String(), goal: goal}
	t.Cleanup(func() { l.Close(); k.to("") })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			k.lead(c)
		}
	}()
	return k
}

func (k *link) lead(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	far, err := net.Dial("tcp", k.goal)
	if err != nil {
		c.Close()
		return
	}
	k.open = append(k.open, c, far)
	pipe := func(to, from net.Conn) {
		io.Copy(to, from)
		to.Close()
		from.Close()
	}
	go pipe(far, c)
	go pipe(c, far)
}

// to breaks what is open and leads what comes to another server.
func (k *link) to(goal string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.open {
		c.Close()
	}
	k.open, k.goal = nil, goal
}
