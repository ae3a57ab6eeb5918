package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// processes is a cluster of real clusterd processes on loopback. Without an isolated
// containers play no part: a socket stands where it would answer.
type processes struct {
	t        *testing.T
	program  string
	isolated string
	dirs     []string
	ports    []int
	running  []*exec.Cmd
	options  func(i int) []string // more than the usual ones; may be nil
}

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "clusterd-test")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "clusterd")
	raw, err := exec.Command("go", "build", "-o", out, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, raw)
	}
	return out, nil
})

func newProcesses(t *testing.T, n int) *processes {
	t.Helper()
	program, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	p := prepare(t, n, program, program)
	for _, dir := range p.dirs {
		l, err := net.Listen("unix", filepath.Join(dir, "isolated.sock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go io.Copy(io.Discard, c)
			}
		}()
	}
	return p
}

func prepare(t *testing.T, n int, program, isolated string) *processes {
	t.Helper()
	p := &processes{t: t, program: program, isolated: isolated, running: make([]*exec.Cmd, n)}
	for range n {
		dir, err := os.MkdirTemp("", "dev") // short: it holds a Unix socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		p.dirs = append(p.dirs, dir)
		p.ports = append(p.ports, freePorts(t))
	}
	t.Cleanup(func() {
		for i := range p.running {
			p.kill(i)
		}
	})
	return p
}

// freePorts finds three ports in a row that nobody uses now.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		free := port < 65000
		for n := 1; n <= 2 && free; n++ {
			x, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+n))
			if free = err == nil; free {
				x.Close()
			}
		}
		if free {
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}

func (p *processes) api(i int) string { return "127.0.0.1:" + strconv.Itoa(p.ports[i]) }

func (p *processes) agentAPI(i int) string { return "127.0.0.1:" + strconv.Itoa(p.ports[i]+1) }

func (p *processes) start(i int) {
	p.t.Helper()
	var peers []string
	for n := range p.ports {
		peers = append(peers, p.api(n))
	}
	cmd := exec.Command(p.program, "--dev", "--verbose", "--dir", p.dirs[i], "--isolated", p.isolated, "--listen", p.api(i),
		"--agent-listen", p.agentAPI(i), "--peers", strings.Join(peers, ","))
	if p.options != nil {
		cmd.Args = append(cmd.Args, p.options(i)...)
	}
	out, err := os.OpenFile(filepath.Join(p.dirs[i], "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.running[i] = cmd
}

func (p *processes) kill(i int) {
	if cmd := p.running[i]; cmd != nil {
		cmd.Process.Kill()
		cmd.Wait()
		p.running[i] = nil
	}
}

func (p *processes) frameworks(i int) (map[string]bool, error) {
	c := &http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get("http://" + p.api(i) + "/frameworks")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return nil, fmt.Errorf("%s", resp.Status)
	}
	var answer struct {
		Frameworks []struct{ ID string } `json:"frameworks"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, f := range answer.Frameworks {
		out[f.ID] = true
	}
	return out, nil
}

func (p *processes) eventually(what string, ok func() bool) {
	p.t.Helper()
	end := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(end) {
			for i := range p.dirs {
				raw, _ := os.ReadFile(filepath.Join(p.dirs[i], "log"))
				p.t.Logf("%d: %s", i, raw[max(0, len(raw)-3000):])
			}
			p.t.Fatalf("%s did not happen", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// subscribe registers a framework and gives its id once the cluster acknowledged it.
func (p *processes) subscribe(i int) (string, error) {
	body := `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"root","name":"load","failover_timeout":100000}}}`
	req, err := http.NewRequestWithContext(p.t.Context(), "POST", "http://"+p.api(i)+"/api/v1/scheduler", bytes.NewBufferString(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	tr := &http.Transport{ResponseHeaderTimeout: 20 * time.Second, DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return "", fmt.Errorf("%s: %q", resp.Status, line)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return "", err
	}
	var event struct {
		Subscribed struct {
			FrameworkID struct{ Value string } `json:"framework_id"`
		} `json:"subscribed"`
	}
	if err := json.Unmarshal(raw, &event); err != nil || event.Subscribed.FrameworkID.Value == "" {
		return "", fmt.Errorf("no SUBSCRIBED: %s", raw)
	}
	return event.Subscribed.FrameworkID.Value, nil
}

// All masters are killed under load within 100 ms, three times over; what was
// acknowledged is there when they are back.
func TestKillingAllMastersLosesNothingAcknowledged(t *testing.T) {
	p := newProcesses(t, 3)
	acknowledged := map[string]bool{}
	var mu sync.Mutex
	kills := 0
	for round := range 3 {
		for i := range p.running {
			p.start(i)
		}
		p.eventually("a leader", func() bool { _, err := p.frameworks(0); return err == nil })
		var stop atomic.Bool
		var wg sync.WaitGroup
		before := len(acknowledged)
		for w := range 6 {
			wg.Go(func() {
				for !stop.Load() {
					if id, err := p.subscribe(w % 3); err == nil {
						mu.Lock()
						acknowledged[id] = true
						mu.Unlock()
					}
				}
			})
		}
		p.eventually("load", func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) > before+40 })
		began := time.Now()
		for _, cmd := range p.running {
			cmd.Process.Kill()
		}
		took := time.Since(began)
		stop.Store(true)
		wg.Wait()
		for i := range p.running {
			p.kill(i)
			kills++
		}
		if took > 100*time.Millisecond {
			t.Errorf("round %d: killing took %s", round, took)
		}
	}
	for i := range p.running {
		p.start(i)
	}
	var have map[string]bool
	p.eventually("a leader", func() bool { var err error; have, err = p.frameworks(1); return err == nil })
	lost := 0
	for id := range acknowledged {
		if !have[id] {
			lost++
		}
	}
	t.Logf("%d of %d acknowledged subscriptions lost, %d processes killed", lost, len(acknowledged), kills)
	if lost > 0 || kills != 9 {
		t.Fail()
	}
}

func TestWrongFlagsSayWhatToDo(t *testing.T) {
	program, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--dev"}, "needs --dir"},
		{[]string{"--dev", "--dir", dir, "--listen", "0.0.0.0:5050"}, "is not on loopback"},
		{[]string{"--dev", "--dir", dir, "--listen", "x"}, "is not ADDRESS:PORT"},
		{[]string{"--dev", "--dir", dir, "--peers", "127.0.0.1:5050,127.0.0.1:5060"}, "use 1, 3 or 5"},
		{[]string{"--dev", "--dir", dir, "--peers", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"}, "does not name this member"},
		{[]string{"--dev", "--dir", dir, "--resources", "cpus:1"}, "names no cpus or no mem"},
		{[]string{"--dev", "--dir", dir, "--zookeeper", "0.0.0.0:2181"}, "--zookeeper: 0.0.0.0:2181 is not on loopback"},
		{[]string{"--dev", "--dir", dir, "--acls", filepath.Join(dir, "none")}, "leave the option out"},
		{[]string{"--dev", "--dir", dir, "--domain", "fra"}, "is not REGION/ZONE, as in fra/a"},
		{[]string{"--dev", "--dir", dir, "--role-sorter", "fair"}, "is not drf or random"},
		{[]string{"--dev", "--dir", dir, "--oversubscribe", "-1"}, "is not a number of cpus"},
		{[]string{"--dev", "--dir", dir, "extra"}, "unexpected argument"},
	} {
		cmd := exec.Command(program, test.args...)
		raw, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(raw), test.want) {
			t.Errorf("%v: %v, %s", test.args, err, raw)
		}
	}
}
