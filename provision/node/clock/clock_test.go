package clock

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// hand is a clock whose moves are noted; it runs with the bubble's time.
type hand struct {
	skew         time.Duration
	steps, slews int
}

func (h *hand) Now() time.Time { return time.Now().Add(h.skew) }

func (h *hand) Step(to time.Time) error {
	h.skew = time.Until(to)
	h.steps++
	return nil
}

func (h *hand) Slew(by time.Duration) error {
	h.skew += by
	h.slews++
	return nil
}

func TestFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		built, signed := time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
		good := &hand{}
		if s, err := Floor(good, built, signed); err != nil || s.Source != "rtc" || good.steps != 0 {
			t.Errorf("a right clock: %+v, %v", s, err)
		}
		bad := &hand{skew: -10000 * time.Hour}
		if s, err := Floor(bad, built, signed); err != nil || s.Source != "floor" || !bad.Now().Equal(signed) {
			t.Errorf("a clock behind: %+v at %s, %v", s, bad.Now(), err)
		}
	})
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hand{skew: -3 * time.Hour}
		var states []State
		servers := []string{}
		asked := map[string]int{}
		k := &Keeper{
			Machine: h, Floor: time.Now().Add(-24 * time.Hour), Servers: func() []string { return servers }, Log: slog.New(slog.DiscardHandler),
			Changed: func(s State) { states = append(states, s) },
			Query: func(_ context.Context, server string) (time.Duration, error) {
				asked[server]++
				switch server {
				case "dead":
					return 0, errors.New("no answer")
				case "liar":
					return -1000 * time.Hour, nil // before the image was built
				}
				return -h.skew, nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		time.Sleep(time.Minute) // nobody is named yet
		synctest.Wait()
		if len(states) != 0 {
			t.Errorf("states %v without servers", states)
		}
		servers = []string{"dead", "liar", "good"}
		<-k.First()
		synctest.Wait()
		if len(states) != 1 || !states[0].Synced || states[0].Source != "good" || h.steps != 1 || h.skew.Abs() > time.Millisecond {
			t.Errorf("states %+v, clock %+v", states, h)
		}
		h.skew = 100 * time.Millisecond
		time.Sleep(askEvery + time.Second)
		synctest.Wait()
		if h.steps != 1 || h.slews != 1 || h.skew != 0 {
			t.Errorf("a small offset was not slewed: %+v", h)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || asked["dead"] < 2 {
			t.Errorf("ended with %v, asked %v", err, asked)
		}
	})
}

// A server that says nothing holds nobody who is to end.
func TestAskingEndsWithItsContext(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if _, _, err := silent.ReadFrom(make([]byte, 512)); err == nil { // it was asked
			cancel()
		}
	}()
	if _, err := AskNTP(ctx, silent.LocalAddr().String()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
}

// FuzzAnswer is what a server, or somebody on the way, may send.
func FuzzAnswer(f *testing.F) {
	f.Add(make([]byte, 48))
	f.Add([]byte{0x24, 1, 0, 0xe9})
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = server.Close() })
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 0 || len(raw) > 1024 {
			return
		}
		go func() {
			if _, from, err := server.ReadFrom(make([]byte, 512)); err == nil {
				_, _ = server.WriteTo(raw, from)
			}
		}()
		if offset, err := AskNTP(t.Context(), server.LocalAddr().String()); err == nil {
			t.Errorf("an answer to nobody's question was believed: %s", offset)
		}
	})
}
