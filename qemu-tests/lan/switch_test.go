package lan

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

// nic is a machine's network card as QEMU would connect it.
type nic struct {
	t    *testing.T
	mac  [6]byte
	conn net.Conn
}

func newLAN(t *testing.T, cfg Config) *LAN {
	t.Helper()
	cfg.Subnet = netip.MustParsePrefix("10.77.0.0/24")
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func plug(t *testing.T, l *LAN, name string, last byte) *nic {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	if err := l.Plug(name, socket); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	waitFor(t, func() bool { return l.plugged(name) })
	return &nic{t: t, mac: [6]byte{0x52, 0x54, 0, 0, 0, last}, conn: conn}
}

func (s *Switch) plugged(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ports[name] != nil
}

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// send sends a frame of an experimental EtherType, which no stack answers.
func (n *nic) send(to [6]byte, text string) {
	n.t.Helper()
	frame := append(append(append([]byte{}, to[:]...), n.mac[:]...), 0x88, 0xb5)
	frame = append(frame, text...)
	if _, err := n.conn.Write(AppendFrame(nil, frame)); err != nil {
		n.t.Fatal(err)
	}
}

// expect reads frames until one has the text, and fails if another text comes first.
func (n *nic) expect(text string) {
	n.t.Helper()
	if err := n.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		n.t.Fatal(err)
	}
	for {
		frame, err := ReadFrame(n.conn)
		if err != nil {
			n.t.Fatalf("waiting for %q: %v", text, err)
		}
		if !bytes.Equal(frame[12:14], []byte{0x88, 0xb5}) {
			continue
		}
		if got := string(frame[14:]); got != text {
			n.t.Fatalf("got frame %q, want %q", got, text)
		}
		return
	}
}

// meet makes the switch learn both addresses.
func meet(a, b *nic) {
	a.send(broadcast, "a is here")
	b.expect("a is here")
	b.send(a.mac, "b is here")
	a.expect("b is here")
}

func TestFramesReachTheirAddresseeOnly(t *testing.T) {
	l := newLAN(t, Config{NoDHCP: true})
	a, b, c := plug(t, l, "a", 1), plug(t, l, "b", 2), plug(t, l, "c", 3)
	c.send(broadcast, "c is here")
	a.expect("c is here")
	b.expect("c is here")
	meet(a, b)
	c.expect("a is here")
	a.send(b.mac, "for b")
	b.expect("for b")
	a.send(c.mac, "for c")
	c.expect("for c") // and neither "b is here" nor "for b" before it
}

func TestFaultsHitTheirDirectionOnlyAndAreCounted(t *testing.T) {
	l := newLAN(t, Config{NoDHCP: true})
	a, b := plug(t, l, "a", 1), plug(t, l, "b", 2)
	meet(a, b)

	l.Set("a", "b", Fault{Cut: true})
	a.send(b.mac, "lost")
	b.send(a.mac, "the other way is open")
	a.expect("the other way is open")
	waitFor(t, func() bool { return l.Dropped("a", "b") == 1 })

	l.Heal()
	a.send(b.mac, "healed")
	b.expect("healed")

	l.Set("a", "b", Fault{Loss: 1})
	a.send(b.mac, "lost again")
	waitFor(t, func() bool { return l.Dropped("a", "b") == 2 })
	l.Heal()

	const late = 50 * time.Millisecond
	l.SetBoth("a", "b", Fault{Delay: late})
	began := time.Now()
	a.send(b.mac, "one")
	a.send(b.mac, "two")
	b.expect("one")
	b.expect("two")
	if took := time.Since(began); took < late {
		t.Errorf("delayed frames took %s, want at least %s", took, late)
	}
}

// waitFor waits for a state that follows from what was done already.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("waited 10 s in vain")
		}
	}
}

func TestAPortIsFreeAgainWhenItsMachineIsGone(t *testing.T) {
	l := newLAN(t, Config{NoDHCP: true})
	b := plug(t, l, "b", 2)
	socket := filepath.Join(t.TempDir(), "s")
	if err := l.Plug("a", socket); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first life", "second life"} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		a := &nic{t: t, mac: [6]byte{0x52, 0x54, 0, 0, 0, 1}, conn: conn}
		waitFor(t, func() bool { return l.plugged("a") })
		a.send(broadcast, text)
		b.expect(text)
		conn.Close()
		waitFor(t, func() bool { return !l.plugged("a") })
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, make([]byte, 60)))
	f.Add([]byte{0, 0, 0, 13})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		frame, err := ReadFrame(bytes.NewReader(raw))
		if err == nil && !bytes.HasPrefix(raw, AppendFrame(nil, frame)) {
			t.Errorf("frame %x is not what %x begins with", frame, raw)
		}
	})
}
