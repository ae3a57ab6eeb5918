package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/internal/wire/forward"
)

func frame(t testing.TB, m proto.Message) []byte {
	t.Helper()
	out, err := Append(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRead(t *testing.T) {
	good := frame(t, &forward.Caller{Protocol: 1, Node: "n1"})
	for _, test := range []struct {
		name string
		in   []byte
		max  int
		want string // part of the error; empty: none
		is   error
	}{
		{"a frame", good, 100, "", nil},
		{"what follows is left alone", append(bytes.Clone(good), 'x'), 100, "", nil},
		{"an empty message", []byte{0, 0, 0, 0}, 100, "", nil},
		{"nothing", nil, 100, "EOF", io.EOF},
		{"half of a length", good[:2], 100, "read frame length", io.ErrUnexpectedEOF},
		{"half of a body", good[:len(good)-1], 100, "read frame body", io.ErrUnexpectedEOF},
		{"too long by one byte", good, len(good) - 5, "frame is longer than accepted", ErrTooLong},
		{"a length that lies", binary.BigEndian.AppendUint32(nil, 1<<31), MaxFrame, "frame is longer than accepted", ErrTooLong},
		{"a length within bounds that lies", binary.BigEndian.AppendUint32(nil, MaxFrame), MaxFrame, "read frame body", nil},
		{"no message", []byte{0, 0, 0, 1, 0xff}, 100, "decode", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var m forward.Caller
			r := bytes.NewReader(test.in)
			err := Read(r, &m, test.max)
			switch {
			case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			case test.is != nil && !errors.Is(err, test.is):
				t.Errorf("%v is not %v", err, test.is)
			}
		})
	}
	if allocated := testing.AllocsPerRun(10, func() {
		_ = Read(bytes.NewReader(binary.BigEndian.AppendUint32(nil, MaxFrame)), &forward.Caller{}, MaxFrame)
	}); allocated > 50 {
		t.Errorf("a lie about the length costs %v allocations", allocated)
	}
}

// Whatever arrives is refused, or is a message that can be framed again; no more is read
// than was announced.
func FuzzRead(f *testing.F) {
	f.Add([]byte{})
	f.Add(frame(f, &forward.Caller{Protocol: 1, Node: "n1", CertificateRoles: []string{"admin"}}))
	f.Add([]byte{0, 0, 0, 2, 0x0a})
	f.Add(binary.BigEndian.AppendUint32(nil, 1<<20))
	f.Fuzz(func(t *testing.T, in []byte) {
		var m forward.Caller
		r := bytes.NewReader(in)
		if Read(r, &m, 1<<20) != nil {
			return
		}
		if read := len(in) - r.Len(); read != 4+int(binary.BigEndian.Uint32(in)) {
			t.Fatalf("%d bytes were read", read)
		}
		var again forward.Caller
		if err := Read(bytes.NewReader(frame(t, &m)), &again, 1<<20); err != nil || !proto.Equal(&m, &again) {
			t.Fatalf("%v became %v, %v", &m, &again, err)
		}
	})
}
