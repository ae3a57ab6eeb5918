package recordio_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
)

func TestReader(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []string
		err      error
	}{
		{"two", "3\nabc5\nde\nfg", []string{"abc", "de\nfg"}, io.EOF},
		{"empty stream", "", nil, io.EOF},
		{"empty record", "0\n2\nxy", []string{"", "xy"}, io.EOF},
		{"cut in length", "3\nabc1", []string{"abc"}, io.ErrUnexpectedEOF},
		{"cut in record", "4\nabc", nil, io.ErrUnexpectedEOF},
		{"nothing of a record", "4\n", nil, io.ErrUnexpectedEOF},
		{"too long", "101\n" + strings.Repeat("x", 101), nil, recordio.ErrTooLong},
		{"huge", "18446744073709551615\n", nil, recordio.ErrTooLong},
		{"more than 64 bits", "18446744073709551616\n", nil, recordio.ErrFraming},
		{"21 digits", strings.Repeat("1", 21) + "\n", nil, recordio.ErrFraming},
		{"no digits", "\nabc", nil, recordio.ErrFraming},
		{"sign", "+3\nabc", nil, recordio.ErrFraming},
		{"HTML", "<html>", nil, recordio.ErrFraming},
		{"carriage return", "3\r\nabc", nil, recordio.ErrFraming},
	} {
		for _, chop := range []struct {
			name string
			wrap func(io.Reader) io.Reader
		}{{"whole", func(r io.Reader) io.Reader { return r }}, {"bytewise", iotest.OneByteReader}} {
			t.Run(c.name+"/"+chop.name, func(t *testing.T) {
				r := recordio.NewReader(chop.wrap(strings.NewReader(c.in)), 100)
				for _, want := range c.want {
					got, err := r.Next()
					if err != nil || string(got) != want {
						t.Fatalf("%q, %v, want %q", got, err, want)
					}
				}
				for range 2 {
					if _, err := r.Next(); !errors.Is(err, c.err) {
						t.Errorf("error %v, want %v", err, c.err)
					}
				}
			})
		}
	}
}

type oneWrite struct{ writes []string }

func (w *oneWrite) Write(p []byte) (int, error) {
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

func TestWriterWritesOnce(t *testing.T) {
	var out oneWrite
	w := recordio.NewWriter(&out)
	for _, s := range []string{"abc", "", "de"} {
		if err := w.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(out.writes, "|"); got != "3\nabc|0\n|2\nde" {
		t.Errorf("%q", got)
	}
}

func FuzzReader(f *testing.F) {
	for _, s := range []string{"", "3\nabc", "0\n0\n", "5\nab", "99999999999\n", "\n", "12", "1\n1\n1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := recordio.NewReader(bytes.NewReader(in), 1<<10)
		var again []byte
		for {
			rec, err := r.Next()
			if err != nil {
				break
			}
			if len(rec) > 1<<10 {
				t.Fatalf("record of %d bytes", len(rec))
			}
			again = recordio.Append(again, rec)
		}
		if len(again) > len(in) {
			t.Fatalf("more came out (%d bytes) than went in (%d)", len(again), len(in))
		}
	})
}
