package masters

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/internal/wire"
	birthwire "github.com/mesolith/mesolith/internal/wire/birth"
)

func foundFrame(t testing.TB, announced uint64, parts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	r := &birthwire.Request{Body: &birthwire.Request_Found{Found: &birthwire.Found{Attempt: "x", SnapshotBytes: announced}}}
	if err := wire.Write(&b, r); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if err := wire.Write(&b, &birthwire.Chunk{Part: []byte(p)}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestStateTravelsInParts(t *testing.T) {
	for _, n := range []int{0, 1, chunkBytes, chunkBytes + 1, 3 * chunkBytes} {
		state := bytes.Repeat([]byte{7}, n)
		var b bytes.Buffer
		if err := (reply{Answer: &birthwire.Answer{Name: "m1"}, state: state}).write(&b); err != nil {
			t.Fatal(err)
		}
		got, err := readReply(&b)
		if err != nil || got.GetName() != "m1" || !bytes.Equal(got.state, state) || b.Len() != 0 {
			t.Errorf("%d bytes: %d arrived, %d left over, %v", n, len(got.state), b.Len(), err)
		}
	}
}

func TestStateThatLiesAboutItselfIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		raw  []byte
		says string
	}{
		{"more than anybody has", foundFrame(t, maxState+1), "longer than accepted"},
		{"it ends too soon", foundFrame(t, 10, "four"), "4 of 10 bytes are here"},
		{"more than announced", foundFrame(t, 5, "four", "more"), "a part of 4 bytes after 4"},
		{"an empty part", foundFrame(t, 5, ""), "a part of 0 bytes"},
		{"a part that is too long", foundFrame(t, 2*chunkBytes, strings.Repeat("x", chunkBytes+100)), "longer than accepted"},
	} {
		if _, err := readRequest(bytes.NewReader(c.raw)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := readRequest(bytes.NewReader(foundFrame(t, maxState+1))); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("%v", err)
	}
}

// Whatever another master sends, reading it ends, and takes no more memory than arrived.
func FuzzReadRequest(f *testing.F) {
	f.Add(foundFrame(f, 0))
	f.Add(foundFrame(f, 8, "four", "more"))
	f.Add(foundFrame(f, maxState+1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := readRequest(bytes.NewReader(raw))
		if err != nil {
			return
		}
		if len(r.state) > len(raw) {
			t.Fatalf("%d bytes of state out of %d", len(r.state), len(raw))
		}
		var b bytes.Buffer
		if err := r.write(&b); err != nil {
			t.Fatal(err)
		}
		again, err := readRequest(&b)
		if err != nil || !proto.Equal(again.Request, r.Request) || !bytes.Equal(again.state, r.state) {
			t.Fatalf("read again: %v", err)
		}
	})
}

// The same for what another master answers.
func FuzzReadReply(f *testing.F) {
	var b bytes.Buffer
	if err := (reply{Answer: &birthwire.Answer{}, state: []byte("a state")}).write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := readReply(bytes.NewReader(raw))
		if err == nil && len(r.state) > len(raw) {
			t.Fatalf("%d bytes of state out of %d", len(r.state), len(raw))
		}
	})
}
