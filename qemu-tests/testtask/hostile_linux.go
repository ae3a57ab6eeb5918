package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// neighbour does what a decent task does, over and over, and says what goes wrong: it
// computes, writes and reads a file, opens some, makes a connection to its node.
func neighbour(url string) error {
	path := filepath.Join(os.Getenv("MESOS_SANDBOX"), "work")
	body := bytes.Repeat([]byte("decent"), 10<<10)
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	hurt := func(what string, err error) { fmt.Println("hurt:", what, err) }
	connected := time.Now()
	for n := 1; ; n++ {
		if err := os.WriteFile(path, body, 0o600); err != nil {
			hurt("write a file:", err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, body) {
			hurt(fmt.Sprintf("%d of %d bytes read:", len(got), len(body)), err)
		}
		for i := range 8 {
			f, err := os.Create(path + strconv.Itoa(i))
			if err != nil {
				hurt("make a file:", err)
				continue
			}
			f.Close()
			os.Remove(f.Name())
		}
		if url != "" && time.Since(connected) > time.Second {
			connected = time.Now()
			if resp, err := client.Get(url); err != nil {
				hurt("ask its node:", fmt.Errorf("after %.1f s: %w", time.Since(connected).Seconds(), err))
			} else {
				resp.Body.Close()
				fmt.Println("answered", n)
			}
		}
		fmt.Println("beat", n)
		<-tick.C
	}
}

// bomb forks, as its children do, without end, and says how many processes there are and
// how often the kernel refused one more.
func bomb() error {
	// Nothing of Go's runtime survives in a child: it may do no more than this.
	for {
		pid, _, errno := unix.RawSyscall(unix.SYS_FORK, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if pid != 0 {
			break
		}
		for {
			_, _, _ = unix.RawSyscall(unix.SYS_FORK, 0, 0, 0)
		}
	}
	for ; ; time.Sleep(200 * time.Millisecond) {
		_, refused, _ := strings.Cut(read("/sys/fs/cgroup/pids.events"), "max ")
		fmt.Println("processes", strings.TrimSpace(read("/sys/fs/cgroup/pids.current")), "refused", strings.Fields(refused + " ?")[0])
	}
}

// hog computes in four threads, and says how many milliseconds of a processor it got.
func hog() error {
	runtime.GOMAXPROCS(5)
	for range 4 {
		go func() {
			for x := uint64(1); ; x = x*2862933555777941757 + 3037000493 {
				if x == 0 {
					fmt.Println("zero")
				}
			}
		}()
	}
	for ; ; time.Sleep(200 * time.Millisecond) {
		var used unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
			return err
		}
		fmt.Println("computed", time.Duration(used.Utime.Nano()+used.Stime.Nano()).Milliseconds())
	}
}

// tracked says over and over how many connections its network tracks, and may.
func tracked() error {
	for ; ; time.Sleep(200 * time.Millisecond) {
		const dir = "/proc/sys/net/netfilter/nf_conntrack_"
		fmt.Println("tracked", strings.TrimSpace(read(dir+"count")), "of", strings.TrimSpace(read(dir+"max")))
	}
}

// spin computes in two threads for some seconds, and says how much of a processor it got.
func spin(text string) error {
	seconds, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	began := time.Now()
	for range 2 {
		go func() {
			for i := uint64(0); ; i++ {
				if i%1e6 == 0 && time.Since(began) > time.Hour {
					return
				}
			}
		}()
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return err
	}
	cpu := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	fmt.Printf("got %d thousandths of a processor\n", 1000*cpu/time.Since(began))
	throttled := ""
	for line := range strings.SplitSeq(read("/sys/fs/cgroup/cpu.stat"), "\n") {
		if n, ok := strings.CutPrefix(line, "nr_throttled "); ok {
			throttled = n
		}
	}
	fmt.Println("throttled", throttled)
	return nil
}

// eatInChild lets a child eat, and survives it if it may.
func eatInChild(megabytes string) error {
	child := exec.Command("/proc/self/exe", "eat", megabytes)
	child.Stdout = os.Stdout
	err := child.Run()
	fmt.Println("the child is gone, the parent lives:", err)
	return nil
}

// again repeats something, and goes on when it fails: whatever becomes free is taken
// again. It says several times a second how often it succeeded, and what stopped it first.
func again(what string, try func() error) error {
	said, failed := time.Now(), false
	for n := 0; ; {
		err := try()
		if err == nil {
			n++
		}
		if stopped := err != nil && !failed; stopped || time.Since(said) > 200*time.Millisecond {
			said = time.Now()
			fmt.Println(what, n)
			if stopped {
				failed = true
				fmt.Println("stopped by:", err)
			}
		}
		if err != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// fill writes files of a quarter of a megabyte, in turns in each directory.
func fill(dirs []string) error {
	body := bytes.Repeat([]byte("x"), 1<<18)
	n := 0
	return again("files of 256 KiB", func() error {
		n++
		return os.WriteFile(filepath.Join(dirs[n%len(dirs)], fmt.Sprint("fill-", n)), body, 0o600)
	})
}

// inodes makes files without contents.
func inodes(dir string) error {
	n := 0
	return again("files without contents", func() error {
		n++
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("file-", n)))
		if err != nil {
			return err
		}
		return f.Close()
	})
}

// flood writes to its output as fast as that takes it, and says to its other how much.
func flood() error {
	body := []byte(strings.Repeat("nobody wants to read this line\n", 2048))
	said := time.Now()
	for n := 0; ; n += len(body) {
		if _, err := os.Stdout.Write(body); err != nil {
			return err
		}
		if time.Since(said) > 200*time.Millisecond {
			said = time.Now()
			fmt.Fprintln(os.Stderr, "kilobytes", n>>10)
		}
	}
}

// packets sends datagrams to several addresses as fast as it can.
func packets(to []string) error {
	var conns []net.Conn
	for _, at := range to {
		c, err := net.Dial("udp", at)
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	body := make([]byte, 64)
	began, sent := time.Now(), 0
	for n := 0; ; n++ {
		if _, err := conns[n%len(conns)].Write(body); err == nil {
			sent++
		}
		if time.Since(began) > 200*time.Millisecond {
			fmt.Println("packets", sent)
			began = time.Now()
		}
	}
}

// flows asks a server that answers by UDP from ever new ports, and then sends to all of
// its host's ports without asking for an answer: each is a connection to track.
func flows(at string) error {
	to, err := net.ResolveUDPAddr("udp4", at)
	if err != nil {
		return err
	}
	buf := make([]byte, 1500)
	answered, sent, began := 0, 0, time.Now()
	for {
		c, err := net.ListenUDP("udp4", nil)
		if err != nil {
			continue
		}
		for range 2 { // the second makes it a stream, which is kept longer
			_, _ = c.WriteTo([]byte("?"), to)
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := c.Read(buf); err == nil {
				answered++
			}
		}
		for range 100 {
			sent++
			_, _ = c.WriteTo([]byte("?"), &net.UDPAddr{IP: to.IP, Port: 1024 + sent%60000})
		}
		c.Close()
		if time.Since(began) > 200*time.Millisecond {
			fmt.Println("flows", sent, "answered", answered/2)
			began = time.Now()
		}
	}
}

// connections opens as many connections to one address as it may, and keeps them.
func connections(at string) error {
	var held []net.Conn
	return again("connections", func() error {
		c, err := net.DialTimeout("tcp4", at, 2*time.Second)
		if err == nil {
			held = append(held, c)
		}
		return err
	})
}

// hoard opens files until none can be opened, and then one more whenever that is possible.
func hoard() error {
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	return again("open files", func() error {
		// Not os.Open: its files cost this program memory of its own.
		_, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
		return err
	})
}
