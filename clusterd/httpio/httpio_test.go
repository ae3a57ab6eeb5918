package httpio

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

func TestReadBounds(t *testing.T) {
	b := NewBudget(1)
	read := func(body io.Reader) (int, error) {
		r := httptest.NewRequest(http.MethodPost, "/", body)
		raw, done, err := b.Read(httptest.NewRecorder(), r)
		defer done()
		return len(raw), err
	}
	for _, n := range []int{0, 1, smallBody - 1, smallBody, smallBody + 1, MaxBody} {
		if got, err := read(strings.NewReader(strings.Repeat("x", n))); err != nil || got != n {
			t.Errorf("%d bytes: %d, %v", n, got, err)
		}
	}
	if _, err := read(strings.NewReader(strings.Repeat("x", MaxBody+1))); !errors.Is(err, ErrBodyTooLarge) {
		t.Errorf("announced: %v", err)
	}
	// Without a length, the reader finds out.
	if _, err := read(io.MultiReader(strings.NewReader(strings.Repeat("x", MaxBody)), strings.NewReader("y"))); !errors.Is(err, ErrBodyTooLarge) {
		t.Errorf("chunked: %v", err)
	}
	// The one slot is free again after all that.
	if _, err := read(strings.NewReader(strings.Repeat("x", MaxBody))); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

func TestBodyError(t *testing.T) {
	for err, want := range map[error]int{ErrBodyTooLarge: 413, ErrBusy: 503, ErrBody: 400} {
		w := httptest.NewRecorder()
		BodyError(w, err)
		if w.Code != want {
			t.Errorf("%v: %d", err, w.Code)
		}
	}
}

func TestDecodeProtobufBounds(t *testing.T) {
	// Two bytes each on the wire, much more in memory.
	many := protowire.AppendTag(nil, 4, protowire.BytesType)
	many = protowire.AppendBytes(many, bytes.Repeat([]byte{0x0a, 0x00}, 1_000_000))
	if err := Decode(Protobuf, many, &scheduler.Call{}); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("many: %.100v", err)
	}
	var deep []byte
	for range 10_000 {
		deep = protowire.AppendBytes([]byte{0x12}, deep) // ContainerID.parent
	}
	if err := Decode(Protobuf, deep, &mesosv1.ContainerID{}); err == nil || !strings.Contains(err.Error(), "deeper") {
		t.Errorf("deep: %.100v", err)
	}
}

func TestSend(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB: longer than what is held
	for _, c := range []struct {
		name, text, accept string
		method             string
		packed             bool
	}{
		{"short", "abc", "gzip", "GET", false},
		{"medium", long[:5000], "gzip, deflate", "GET", true},
		{"medium, not asked", long[:5000], "", "GET", false},
		{"medium, refused", long[:5000], "gzip;q=0", "GET", false},
		{"long", long, "", "GET", false},
		{"long, packed", long, "gzip", "GET", true},
		{"head", "abc", "", "HEAD", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, "/", nil)
			r.Header.Set("Accept-Encoding", c.accept)
			w := httptest.NewRecorder()
			err := Send(w, r, JSON, func(out io.Writer) error {
				_, err := io.WriteString(out, c.text)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			body := io.Reader(w.Body)
			if packed := w.Header().Get("Content-Encoding") == "gzip"; packed != c.packed {
				t.Fatalf("header %v", w.Header())
			}
			if c.method != "HEAD" && w.Header().Get("Content-Length") != strconv.Itoa(w.Body.Len()) {
				t.Errorf("length %s of %d", w.Header().Get("Content-Length"), w.Body.Len())
			}
			if c.packed {
				if body, err = gzip.NewReader(w.Body); err != nil {
					t.Fatal(err)
				}
			}
			got, err := io.ReadAll(body)
			if err != nil {
				t.Fatal(err)
			}
			if want := c.text; c.method == "HEAD" && len(got) != 0 || c.method != "HEAD" && string(got) != want {
				t.Errorf("%d bytes of %d", len(got), len(want))
			}
		})
	}
}

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]string{
		"-": JSON, "*/*": JSON, JSON: JSON, Protobuf: Protobuf, Protobuf + ", " + JSON: JSON, "application/*": JSON,
		"text/html": "", "text/html, */*;q=0.1": JSON, JSON + ";q=0, " + Protobuf: Protobuf, "": JSON,
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		if accept != "-" {
			r.Header.Set("Accept", accept)
		}
		got, ok := Negotiate(r)
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
}

// Whatever arrives is refused or understood; nothing panics, and what protobuf accepts
// the measure had accepted too.
func FuzzDecode(f *testing.F) {
	seed, err := proto.Marshal(&scheduler.Call{
		Type: scheduler.Call_DECLINE.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: new("f")},
		Decline: &scheduler.Call_Decline{OfferIds: []*mesosv1.OfferID{{Value: new("o")}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(true, seed)
	f.Add(false, []byte(`{"type":"DECLINE","framework_id":{"value":"f"},"decline":{"offer_ids":[{"value":"o"}]}}`))
	f.Add(true, []byte{0x22, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add(true, []byte{0x1b, 0x1b, 0x1b})
	f.Fuzz(func(t *testing.T, binary bool, body []byte) {
		media := JSON
		if binary {
			media = Protobuf
		}
		var call scheduler.Call
		if Decode(media, body, &call) != nil {
			return
		}
		if _, err := proto.Marshal(&call); err != nil {
			t.Fatalf("accepted, and cannot be written: %v", err)
		}
	})
}

// Headers of any kind give one of the two media types, or none.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{"", "*/*", "application/json;q=0, application/x-protobuf", "gzip;q=0.000", ";;;,,,", "application/json;q=\"", "gzip; q=NaN"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, accept, encoding string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Accept"], r.Header["Accept-Encoding"] = []string{accept}, []string{encoding}
		media, ok := Negotiate(r)
		if ok && media != JSON && media != Protobuf || accept == "" && media != JSON {
			t.Fatalf("%q gives %q, %v", accept, media, ok)
		}
		if encoding == "" && acceptsGzip(r) {
			t.Fatal("gzip was not asked for")
		}
	})
}
