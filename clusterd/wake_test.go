package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// leads finds the member that leads, by where any of them but one sends its callers.
func (p *processes) leads(not int) (int, error) {
	c := &http.Client{Timeout: time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for i := range p.running {
		if p.running[i] == nil || i == not {
			continue
		}
		resp, err := c.Get("http://" + p.api(i) + "/redirect")
		if err != nil {
			continue
		}
		resp.Body.Close()
		for n := range p.ports {
			if strings.HasSuffix(resp.Header.Get("Location"), p.api(n)) {
				return n, nil
			}
		}
	}
	return 0, fmt.Errorf("nobody is said to lead")
}

// A leader is stopped for longer than its lease, another one takes a framework in, and
// questions are waiting at the stopped one when it goes on. In its own eyes it still leads
// for a moment; no answer may be without that framework.
func TestAWokenLeaderShowsNothingOld(t *testing.T) {
	p := newProcesses(t, 3)
	for i := range p.running {
		p.start(i)
	}
	const rounds, questions = 4, 30
	old, right, refused := 0, 0, 0
	for range rounds {
		p.eventually("all members' answers", func() bool {
			for i := range p.running {
				if _, err := p.frameworks(i); err != nil {
					return false
				}
			}
			return true
		})
		asleep, err := p.leads(-1)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.running[asleep].Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		p.eventually("another leader", func() bool { n, err := p.leads(asleep); return err == nil && n != asleep })
		id := ""
		p.eventually("a new framework", func() bool { id, err = p.subscribe((asleep + 1) % 3); return err == nil })
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range questions {
			wg.Go(func() {
				have, err := p.frameworks(asleep)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					refused++
				case have[id]:
					right++
				default:
					old++
				}
			})
		}
		time.Sleep(300 * time.Millisecond) // the questions are in its sockets
		if err := p.running[asleep].Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	t.Logf("%d leaders stopped and woken; of %d questions that waited for them %d were answered rightly, %d refused, %d shown what was", rounds, rounds*questions, right, refused, old)
	if old > 0 {
		t.Fail()
	}
}
