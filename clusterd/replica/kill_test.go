package replica

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// childEnv makes this test program one voter of three: name, directory, all addresses.
const childEnv = "MESOLITH_TEST_VOTER"

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		diskProbe(os.Args[1:])
	}
	if spec := os.Getenv(childEnv); spec != "" {
		if err := runVoter(strings.Split(spec, ",")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	killHeartbeat = 300 * time.Millisecond
	killRounds    = 3
	killInFlight  = 16
	killAcks      = 300 // at least so many are acknowledged in each round
)

var killGeneration = Generation{Height: 1, ID: "kill"}

func killVoters() []Voter { return []Voter{{"a", "i1"}, {"b", "i1"}, {"c", "i1"}} }

// tcpLinks is Links over loopback; a first line says who calls.
type tcpLinks struct {
	self      Voter
	addresses map[string]string
	listener  net.Listener
}

func (l *tcpLinks) Dial(ctx context.Context, name string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", l.addresses[name])
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(c, "%s\n", l.self.ServerID())
	return c, err
}

func (l *tcpLinks) Accept(ctx context.Context) (net.Conn, Voter, error) {
	defer context.AfterFunc(ctx, func() { l.listener.Close() })()
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return nil, Voter{}, err
		}
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		var line []byte
		one := make([]byte, 1)
		for len(line) < 64 {
			if _, err := c.Read(one); err != nil || one[0] == '\n' {
				break
			}
			line = append(line, one[0])
		}
		c.SetReadDeadline(time.Time{})
		name, incarnation, ok := strings.Cut(string(line), "/")
		if !ok { // who called before this program ran, and gave up
			c.Close()
			continue
		}
		return c, Voter{name, incarnation}, nil
	}
}

// runVoter is the child: while it leads it proposes, and says on stdout what was
// acknowledged; after "dump" on stdin the leader says what it holds.
func runVoter(spec []string) error {
	self := Voter{spec[0], "i1"}
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	links := &tcpLinks{self: self, listener: listener, addresses: map[string]string{"a": spec[2], "b": spec[3], "c": spec[4]}}
	m := &counter{}
	r, err := Open(Config{
		Dir: spec[1], Self: self, Generation: killGeneration, Machine: m, Links: links,
		Heartbeat: killHeartbeat, Stall: 30 * time.Second, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return err
	}
	dump := make(chan struct{})
	go func() {
		bufio.NewReader(os.Stdin).ReadString('\n')
		close(dump)
	}()
	for i := 0; ; {
		l, changed := r.Leadership()
		if !l.Leading {
			<-changed
			continue
		}
		select {
		case <-dump:
			if r.Barrier(context.Background()) != nil {
				continue
			}
			m.mu.Lock()
			for _, e := range m.entries {
				fmt.Println("has", e)
			}
			m.mu.Unlock()
			fmt.Println("end")
			return nil
		default:
		}
		var wg sync.WaitGroup
		for range killInFlight {
			i++
			entry := fmt.Sprintf("%s-%d-%d", self.Name, os.Getpid(), i)
			wg.Go(func() {
				if _, err := r.Propose(context.Background(), []byte(entry)); err == nil {
					os.Stdout.WriteString("ack " + entry + "\n")
				}
			})
		}
		wg.Wait()
	}
}

// fleet is the three processes as the test sees them.
type fleet struct {
	t         *testing.T
	dir       string
	listeners map[string]*net.TCPListener
	running   []*exec.Cmd
	stdin     []io.WriteCloser
	readers   sync.WaitGroup
	lines     chan string
}

func (f *fleet) start() {
	f.t.Helper()
	for _, v := range killVoters() {
		file, err := f.listeners[v.Name].File()
		if err != nil {
			f.t.Fatal(err)
		}
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{
			v.Name, filepath.Join(f.dir, v.Name), f.listeners["a"].Addr().String(), f.listeners["b"].Addr().String(), f.listeners["c"].Addr().String(),
		}, ","))
		c.ExtraFiles = []*os.File{file}
		c.Stderr = os.Stderr
		in, err := c.StdinPipe()
		if err != nil {
			f.t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			f.t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			f.t.Fatal(err)
		}
		file.Close()
		f.running, f.stdin = append(f.running, c), append(f.stdin, in)
		f.readers.Go(func() {
			s := bufio.NewScanner(out)
			for s.Scan() {
				f.lines <- s.Text()
			}
		})
	}
}

// kill ends all of them at once, and takes what they had said before.
func (f *fleet) kill(heard func(string)) time.Duration {
	began := time.Now()
	for _, c := range f.running {
		c.Process.Kill()
	}
	took := time.Since(began)
	drained := make(chan struct{})
	go func() {
		f.readers.Wait()
		close(drained)
	}()
	for {
		select {
		case l := <-f.lines:
			heard(l)
			continue
		case <-drained:
		}
		break
	}
	for len(f.lines) > 0 {
		heard(<-f.lines)
	}
	for _, c := range f.running {
		c.Wait()
	}
	f.running, f.stdin = nil, nil
	return took
}

// Three programs under load, killed together within 100 ms and started again, lose
// nothing that was acknowledged.
func TestKillingAllLosesNothingAcknowledged(t *testing.T) {
	f := &fleet{t: t, dir: t.TempDir(), listeners: map[string]*net.TCPListener{}, lines: make(chan string, 1024)}
	for _, v := range killVoters() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f.listeners[v.Name] = l.(*net.TCPListener)
		if err := Found(filepath.Join(f.dir, v.Name), v, killGeneration, killVoters(), nil); err != nil {
			t.Fatal(err)
		}
	}
	acked := map[string]bool{}
	heard := func(line string) {
		if e, ok := strings.CutPrefix(line, "ack "); ok {
			acked[e] = true
		}
	}
	f.start()
	defer func() { f.kill(func(string) {}) }()
	limit := time.After(3 * time.Minute)
	for round := range killRounds {
		for want := len(acked) + killAcks; len(acked) < want; {
			select {
			case l := <-f.lines:
				heard(l)
			case <-limit:
				t.Fatalf("round %d: %d acknowledged, and no more came", round, len(acked))
			}
		}
		if took := f.kill(heard); took > 100*time.Millisecond {
			t.Errorf("killing all took %s: they died one after the other", took)
		}
		f.start()
	}
	for _, in := range f.stdin {
		io.WriteString(in, "dump\n")
	}
	has := map[string]bool{}
	for done := false; !done; {
		select {
		case l := <-f.lines:
			heard(l)
			if e, ok := strings.CutPrefix(l, "has "); ok {
				has[e] = true
			}
			done = l == "end"
		case <-limit:
			t.Fatal("no leader told what it holds")
		}
	}
	lost := 0
	for e := range acked {
		if !has[e] {
			lost++
		}
	}
	t.Logf("%d kills of all three: %d of %d acknowledged entries lost", killRounds, lost, len(acked))
	if lost > 0 {
		t.Fail()
	}
}
