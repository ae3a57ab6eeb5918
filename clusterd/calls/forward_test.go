package calls

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/internal/wire/forward"
)

// What a call gets whose leader dies with it.
func TestLeaderDiesUnderAForwardedCall(t *testing.T) {
	const second = time.Second
	for _, k := range []struct {
		name    string
		reached bool          // the leader has read the call
		over    time.Duration // until another leader is known; 0: never
		answers time.Duration // until the old one answers; 0: never
		status  int           // 0: nothing is answered, nothing was sent
		within  time.Duration
	}{
		{"another leads soon", true, 3 * second, 0, 503, 3*second + lastWord},
		{"nobody else leads", true, 0, 0, 503, answerTime},
		{"the old one still has its last word", true, 3 * second, 4 * second, 202, 4 * second},
		{"it was not reached", false, 0, 0, 0, dialTime},
		{"it was not reached, and another leads soon", false, second, 0, 0, second + lastWord},
	} {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newForwarder(func(ctx context.Context, _ string) (net.Conn, error) {
					if !k.reached {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					ours, theirs := net.Pipe()
					go play(&callerConn{Conn: theirs}, k.answers)
					return ours, nil
				})
				defer f.transport.CloseIdleConnections()
				w := httptest.NewRecorder()
				w.Code = 0
				r := httptest.NewRequest(http.MethodPost, "/api/v1/scheduler", nil).WithContext(t.Context())
				began := time.Now()
				err := f.do(w, r, []byte("{}"), &forward.Caller{Protocol: 1, Node: "a1", Leader: "m1"}, func(ctx context.Context) error {
					if k.over == 0 {
						<-ctx.Done()
						return nil
					}
					select {
					case <-time.After(k.over):
						return errTermOver
					case <-ctx.Done():
						return nil
					}
				})
				if took := time.Since(began); took > k.within {
					t.Errorf("took %s, at most %s expected", took, k.within)
				}
				if w.Code != k.status || errors.Is(err, errNotReached) != (k.status == 0) {
					t.Errorf("status %d, %v", w.Code, err)
				}
				if k.status == 503 && !strings.Contains(w.Body.String(), "whether it did what was asked is not known") {
					t.Errorf("%s", w.Body)
				}
			})
		})
	}
}

// play is a leader that reads one call, and answers after a while or never.
func play(c net.Conn, answers time.Duration) {
	defer c.Close()
	if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
		return
	}
	if answers > 0 {
		time.Sleep(answers)
		_, _ = c.Write([]byte("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"))
	}
	_, _ = c.Read(make([]byte, 1)) // until the forwarder closes
}
