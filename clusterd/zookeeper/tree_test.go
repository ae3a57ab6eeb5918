package zookeeper

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

func TestNumbersRiseAndFitClients(t *testing.T) {
	last := int32(-1)
	for _, at := range []struct{ height, term uint64 }{{0, 0}, {0, 1}, {0, 1<<20 - 1}, {1, 0}, {1, 7}, {2, 1}, {255, 1<<20 - 1}} {
		got := base(at.height, at.term)
		if got <= last || got+maxOthers < got {
			t.Errorf("%+v has the number %d, the one before %d", at, got, last)
		}
		last = got + maxOthers
	}
	zxid := func(height, term uint64, n int64) int64 { return int64(base(height, term))<<32 + n }
	for _, c := range []struct {
		a, b int64
		want bool
	}{
		{zxid(1, 8, 1), zxid(1, 7, 99), true},
		{zxid(1, 7, 99), zxid(1, 7, 1), false},
		{zxid(1, 7, 1), zxid(1, 8, 1), false},
		{zxid(2, 1, 1), zxid(1, 900, 1), true},
		{zxid(256, 1, 1), zxid(255, 1<<20-1, 1), true}, // the numbers begin again
		{zxid(255, 1<<20-1, 1), zxid(256, 1, 1), false},
		{0, zxid(1, 7, 1), false},
		{-1, zxid(1, 7, 1), false},
	} {
		if got := ahead(c.a, c.b); got != c.want {
			t.Errorf("%x is ahead of %x: %v", c.a, c.b, got)
		}
	}
}

func TestATreeIsWhatTheViewSays(t *testing.T) {
	print := func(tr *tree) string {
		var b strings.Builder
		for _, p := range []string{"/", "/a", "/a/b"} {
			n := tr.nodes[p]
			fmt.Fprintf(&b, "%s %q v%d", p, n.children, n.stat.childrenVersion)
			for _, c := range n.children {
				if m := tr.nodes[p+"/"+c]; m != nil && len(m.data) > 0 {
					fmt.Fprintf(&b, " %s", m.data)
				}
			}
			b.WriteString("\n")
		}
		return b.String()
	}
	tr := &tree{}
	last := int64(0)
	for _, step := range []struct {
		view View
		want string
	}{
		{View{Generation: "g"}, "/ [\"a\"] v0\n/a [\"b\"] v0\n/a/b [] v0\n"},
		{View{Generation: "g", Term: 2, Others: [][]byte{[]byte("x")}}, "/ [\"a\"] v0\n/a [\"b\"] v0\n/a/b [] v0\n"},
		{
			View{Generation: "g", Term: 2, Leader: []byte("L"), Others: [][]byte{[]byte("x"), nil, []byte("y")}},
			"/ [\"a\"] v0\n/a [\"b\"] v0\n/a/b [\"json.info_0000000016\" \"json.info_0000000017\" \"json.info_0000000019\"] v1 L x y\n",
		},
		{View{Generation: "g", Term: 1, Leader: []byte("old")}, "/ [\"a\"] v0\n/a [\"b\"] v0\n/a/b [] v2\n"},
		{View{Generation: "g", Term: 2, Leader: []byte("L")}, "/ [\"a\"] v0\n/a [\"b\"] v0\n/a/b [\"json.info_0000000016\"] v3 L\n"},
		{View{Generation: "h", Term: 1, Leader: []byte("M")}, "/ [\"a\"] v0\n/a [\"b\"] v0\n/a/b [\"json.info_0000000008\"] v0 M\n"},
	} {
		was := tr
		if tr = tr.next(step.view, "/a/b", 5); print(tr) != step.want {
			t.Errorf("%+v:\n%swant\n%s", step.view, print(tr), step.want)
		}
		if was.view.Generation == tr.view.Generation && tr.zxid <= last {
			t.Errorf("the change %d follows %d", tr.zxid, last)
		}
		last = tr.zxid
		if s := tr.nodes["/a/b"].stat; s.childrenModified > tr.zxid || s.created > s.childrenModified || int(s.children) != len(tr.nodes["/a/b"].children) {
			t.Errorf("%+v", s)
		}
	}
}

// sink is a connection that keeps what is written to it.
type sink struct {
	net.Conn
	out bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// Whatever a client sends, nothing is written, nothing grows beyond its bound, and what is
// answered are whole frames.
func FuzzRequests(f *testing.F) {
	for _, q := range [][]byte{
		helloFrame(1000, 0), ask(1, opExists, "/mesos"), ask(2, opGetChildren, "/none"), ask(3, opCreate, "/x"), ask(4, opMulti, ""),
		newFrame().int32(-4).int32(int32(opAuth)).int32(0).bytes([]byte("digest")).bytes([]byte("a:b")).done(),
		newFrame().int32(-8).int32(int32(opSetWatches)).int64(0).texts([]string{"/mesos"}).texts([]string{"/a", "/b"}).texts([]string{"/mesos"}).done(),
		newFrame().int32(-8).int32(int32(opSetWatches2)).int64(0).texts(nil).texts(nil).texts(nil).texts([]string{"/p"}).texts(nil).done(),
		newFrame().int32(-2).int32(int32(opPing)).done(), newFrame().int32(9).int32(int32(opClose)).done(),
	} {
		f.Add(q[4:])
	}
	s := New(Config{Path: "/mesos", Limits: Limits{Watches: 3}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	s.Post(view(7, 1))
	before, _ := s.read()
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, err := decodeHello(raw); err == nil && len(h.password) > len(raw) {
			t.Errorf("a password of %d bytes in %d", len(h.password), len(raw))
		}
		q, err := decodeRequest(raw)
		if err != nil {
			return
		}
		to := &sink{}
		out := &to.out
		c := &conn{s: s, c: to, seen: before, watches: map[watch]bool{}}
		if _, err := c.answer(q); err != nil {
			t.Error(err)
		}
		if now, _ := s.read(); now != before || len(c.watches) > 3 {
			t.Errorf("it changed something, or set %d watches", len(c.watches))
		}
		for answers := 0; out.Len() > 0 || answers == 0; answers++ {
			var head [4]byte
			if _, err := io.ReadFull(out, head[:]); err != nil {
				t.Fatal(err)
			}
			if b, err := readRest(out, head); err != nil || len(b) < 16 {
				t.Fatalf("an answer of %d bytes, %v", len(b), err)
			}
		}
	})
}
