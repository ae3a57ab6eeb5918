package cni

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// place is a network namespace with a thread in it: a node, a task, or a stranger on the
// LAN. What do runs is serial, and processes started there are there too.
type place struct {
	t     *testing.T
	name  string
	path  string // a name that outlives the thread, as /run/netns has
	calls chan func()
	asked atomic.Int64 // UDP questions that arrived, answered or not
}

// beside runs f in the place while other calls go on there.
func (p *place) beside(f func() error, done chan<- error) {
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open(p.path)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
}

func newPlace(t *testing.T, name string) *place {
	t.Helper()
	p := &place{t: t, name: name, path: filepath.Join(t.TempDir(), name), calls: make(chan func())}
	if err := os.WriteFile(p.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), p.path, "", unix.MS_BIND, "")
		}
		ready <- err
		for call := range p.calls {
			call()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("network namespace of %s: %v", name, err)
	}
	t.Cleanup(func() {
		close(p.calls)
		<-ended
		unix.Unmount(p.path, unix.MNT_DETACH)
	})
	return p
}

// do runs the body in the place and fails the test when it fails.
func (p *place) do(what string, body func() error) {
	p.t.Helper()
	if err := p.try(body); err != nil {
		p.t.Fatalf("%s: %s: %v", p.name, what, err)
	}
}

func (p *place) try(body func() error) error {
	done := make(chan error)
	p.calls <- func() { done <- body() }
	return <-done
}

// lan gives each place an end of a cable to one switch, with an address.
func lan(t *testing.T, at map[string]*place) {
	t.Helper()
	hub := newPlace(t, "switch")
	hub.do("make the switch", func() error {
		hub.mustSysctl("net/bridge/bridge-nf-call-iptables", "0")
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	})
	n := 0
	for address, p := range at {
		n++
		port, peer := fmt.Sprintf("port%d", n), p
		hub.do("plug in "+peer.name, func() error {
			other, err := netns.GetFromPath(peer.path)
			if err != nil {
				return err
			}
			defer other.Close()
			br, err := netlink.LinkByName("lan")
			if err != nil {
				return err
			}
			veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: br.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(other)}
			if err := netlink.LinkAdd(veth); err != nil {
				return err
			}
			return netlink.LinkSetUp(veth)
		})
		peer.do("configure eth0", func() error {
			for name, prefix := range map[string]string{"eth0": address + "/24", "lo": ""} {
				link, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				if prefix != "" {
					if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(prefix))}); err != nil {
						return err
					}
				}
				if err := netlink.LinkSetUp(link); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func (p *place) mustSysctl(key, value string) {
	if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil && !os.IsNotExist(err) {
		p.t.Errorf("sysctl %s: %v", key, err)
	}
}

// answer serves a port over TCP and UDP: each client hears the listener's name and its
// own address as it is seen here.
func (p *place) answer(port int) {
	p.t.Helper()
	at := fmt.Sprintf(":%d", port)
	p.do("listen on "+at, func() error {
		l, err := net.Listen("tcp4", at)
		if err != nil {
			return err
		}
		pc, err := net.ListenPacket("udp4", at)
		if err != nil {
			return err
		}
		p.t.Cleanup(func() { l.Close(); pc.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, p.name+" "+hostOf(c.RemoteAddr()))
				c.Close()
			}
		}()
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				p.asked.Add(1)
				pc.WriteTo([]byte(p.name+" "+hostOf(from)), from)
			}
		}()
		return nil
	})
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

// ask gives what answer said, or the error.
func (p *place) ask(network, address string, patience time.Duration) (string, error) {
	var said string
	err := p.try(func() error {
		c, err := net.DialTimeout(network, address, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if network == "udp4" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		said = string(buf[:n])
		return err
	})
	return said, err
}

// converse gives a UDP client with one source port: each call asks and hears.
func (p *place) converse(address string) func() string {
	p.t.Helper()
	var c net.Conn
	p.do("open a UDP socket", func() (err error) {
		c, err = net.Dial("udp4", address)
		return err
	})
	p.t.Cleanup(func() { c.Close() })
	return func() string {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 64)
		if _, err := c.Write([]byte("?")); err != nil {
			return err.Error()
		}
		n, err := c.Read(buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
}

// hears demands an answer over TCP and UDP; seen "" means: whatever the source.
func (p *place) hears(address, who, seen string) {
	p.t.Helper()
	p.hearsBy("tcp4", address, who, seen)
	p.hearsBy("udp4", address, who, seen)
}

func (p *place) hearsBy(network, address, who, seen string) {
	p.t.Helper()
	said, err := p.ask(network, address, 5*time.Second)
	name, from, _ := strings.Cut(said, " ")
	switch {
	case err != nil:
		p.t.Errorf("%s to %s by %s: %v", p.name, address, network, err)
	case name != who || (seen != "" && from != seen):
		p.t.Errorf("%s to %s by %s: heard %q, want %s and to be seen as %s", p.name, address, network, said, who, seen)
	}
}

// findsShut demands that nobody answers.
func (p *place) findsShut(address string) {
	p.t.Helper()
	for _, network := range []string{"tcp4", "udp4"} {
		if said, err := p.ask(network, address, 300*time.Millisecond); err == nil {
			p.t.Errorf("%s to %s by %s: %q answered; the port must be shut", p.name, address, network, said)
		}
	}
}

// cniPlugins builds the plugins at the version that tools/go.mod names.
func cniPlugins(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may make network namespaces")
	}
	dir := filepath.Join(os.TempDir(), "mesolith-test-cni")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const plugins = "github.com/containernetworking/plugins/plugins/"
	build := exec.Command("go", "build", "-o", dir, plugins+"main/bridge", plugins+"ipam/host-local")
	build.Dir = filepath.Join("..", "..", "tools")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the CNI plugins: %v\n%s", err, out)
	}
	return dir
}

// machine is a place with a Network in it.
type machine struct {
	*place
	network  *Network
	settings Settings
	log      *bytes.Buffer
}

func newMachine(t *testing.T, p *place, bin, dir string, s Settings) *machine {
	t.Helper()
	m := &machine{place: p, settings: s, log: &bytes.Buffer{}}
	m.restart(bin, dir)
	p.do("configure", func() error { return m.network.Configure(context.Background(), s) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", p.name, m.log)
		}
	})
	return m
}

// restart is what a new isolated does, before it sweeps.
func (m *machine) restart(bin, dir string) {
	m.t.Helper()
	log := slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n, err := New(Config{Bin: bin, Dir: dir, Log: log})
	if err != nil {
		m.t.Fatal(err)
	}
	m.network = n
}

func (m *machine) attach(task *place, ports ...PortRange) Attachment {
	m.t.Helper()
	var a Attachment
	m.do("attach "+task.name, func() (err error) {
		a, err = m.network.Attach(context.Background(), task.name, task.path, ports)
		return err
	})
	return a
}
