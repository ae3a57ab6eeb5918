package vanish

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cable is a loopback interface in a network namespace of its own that can be pulled.
func setCable(up bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if up {
		ifr.SetUint16(unix.IFF_UP)
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// A peer that vanishes says no goodbye: the connection ends by itself, within its limit,
// as soon as there is something to say.
func TestConnectionToWhoVanishedEnds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces are root's")
	}
	const limit = 2 * time.Second
	type ends struct {
		near, far net.Conn
		err       error
	}
	made, pull, pulled := make(chan ends), make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var e ends
		var l net.Listener
		if e.err = unix.Unshare(unix.CLONE_NEWNET); e.err == nil {
			e.err = setCable(true)
		}
		if e.err == nil {
			l, e.err = net.Listen("tcp4", "127.0.0.1:0")
		}
		if e.err == nil {
			e.far, e.err = net.Dial("tcp4", l.Addr().String())
		}
		if e.err == nil {
			e.near, e.err = l.Accept()
		}
		made <- e
		<-pull
		pulled <- setCable(false)
	}()
	e := <-made
	if e.err != nil {
		t.Fatal(e.err)
	}
	defer e.far.Close()
	defer e.near.Close()
	if err := After(e.near, limit); err != nil {
		t.Fatal(err)
	}
	if _, err := e.near.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	close(pull)
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := e.near.Write([]byte("anybody there?")); err != nil {
		t.Fatalf("the kernel takes what is written: %v", err)
	}
	e.near.SetReadDeadline(time.Now().Add(60 * limit))
	_, err := e.near.Read(make([]byte, 1))
	if !errors.Is(err, unix.ETIMEDOUT) {
		t.Fatalf("after %s: %v, want %v", time.Since(began), err, unix.ETIMEDOUT)
	}
	t.Logf("vanished; noticed after %.1f s with a limit of %s", time.Since(began).Seconds(), limit)
}
