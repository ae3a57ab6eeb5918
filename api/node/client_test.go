package node

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
)

// answering is a node that says the same to everything.
type answering struct {
	status int
	body   []byte
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Body: io.NopCloser(bytes.NewReader(a.body)), Request: r}, nil
}

// Whatever a node answers, asking it ends in an answer or an error that says whom was
// asked for what.
func FuzzAnswers(f *testing.F) {
	f.Add(200, []byte(`{"name":"n1","bootID":"b","time":"2026-01-02T03:04:05Z","clock":{"synced":true,"offsetNS":7},"status":{"held":[{"master":"m3"}]}}`))
	f.Add(200, []byte(`[{"name":"clusterd","state":"running"}]`))
	f.Add(200, []byte(`{"certificateEnds":"never"}`))
	f.Add(403, []byte(`{"error":"no role operator"}`))
	f.Add(500, []byte{0xff})
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		c := &Client{Base: "https://n1", HTTP: &http.Client{Transport: answering{status, body}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
		_, err1 := c.Health(t.Context())
		_, err2 := c.Inventory(t.Context())
		_, err3 := c.Services(t.Context())
		_, err4 := c.Memory(t.Context())
		for _, err := range []error{err1, err2, err3, err4} {
			if status/100 != 2 && err == nil {
				t.Fatalf("status %d is taken for a success", status)
			}
		}
		if err := c.Reboot(t.Context(), "fuzz"); status/100 == 2 != (err == nil) || err != nil && status/100 != 3 && !errors.Is(err, ErrRefused) {
			t.Fatalf("status %d: %v", status, err)
		}
	})
}
