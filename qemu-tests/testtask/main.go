// Testtask is the program inside the containers of the VM tests: each verb does one thing
// that a test can see from outside, and prints what it did.
//
// It holds no assertion: tests read its output and its task's states.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: bomb | eat-and-stay MB | attempt | neighbour URL | spin SECONDS | hog | tracked | eat-in-child MB | fill DIR… | inodes DIR | flood | packets HOST:PORT… | flows HOST:PORT | connections HOST:PORT | hoard | inspect NAME=ADDRESS… | say TEXT | show FILE | keep FILE TEXT | exit CODE | live | stay | eat MB | serve | serve-self HOST | get URL | udp HOST:PORT | probe ADDRESS…")
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch args[0] {
	case "say":
		fmt.Println(arg(1))
		return nil
	case "show":
		raw, err := os.ReadFile(arg(1))
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(raw)
		return err
	case "keep":
		return keep(arg(1), arg(2))
	case "exit":
		code, err := strconv.Atoi(arg(1))
		if err != nil {
			return err
		}
		os.Exit(code)
	case "live":
		return live()
	case "stay":
		return stay()
	case "eat":
		return eat(arg(1), false)
	case "serve":
		return serve(nil)
	case "serve-self": // and visits itself by the address that it is given
		return serve(func() error { return get("http://" + arg(1) + ":" + os.Getenv("PORT0")) })
	case "get":
		return get(arg(1))
	case "udp":
		return udp(arg(1))
	case "neighbour":
		return neighbour(arg(1))
	case "spin":
		return spin(arg(1))
	case "hog":
		return hog()
	case "tracked":
		return tracked()
	case "bomb":
		return bomb()
	case "eat-and-stay":
		return eat(arg(1), true)
	case "eat-in-child":
		return eatInChild(arg(1))
	case "fill":
		return fill(args[1:])
	case "inodes":
		return inodes(arg(1))
	case "flood":
		return flood()
	case "packets":
		return packets(args[1:])
	case "flows":
		return flows(arg(1))
	case "connections":
		return connections(arg(1))
	case "hoard":
		return hoard()
	case "attempt":
		return attempt()
	case "inspect":
		return inspect(args[1:])
	case "probe":
		return probe(args[1:])
	}
	return fmt.Errorf("unknown verb %q", args[0])
}

// keep writes a new file and prints whose it and its directory are.
func keep(name, text string) error {
	if err := os.WriteFile(name, []byte(text+"\n"), 0o640); err != nil {
		return err
	}
	for _, at := range []string{name, filepath.Dir(name)} {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s has no owner", at)
		}
		fmt.Printf("%d:%d ", st.Uid, st.Gid)
	}
	fmt.Println("seen by", os.Getuid())
	return nil
}

// live prints who it is once, then counts until SIGTERM: a second life of the same task
// would print another name.
func live() error {
	name := make([]byte, 8)
	if _, err := rand.Read(name); err != nil {
		return err
	}
	fmt.Println("born", hex.EncodeToString(name))
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
			fmt.Println("beat", n)
		case <-term:
			fmt.Println("asked to end")
			return nil
		}
	}
}

// stay says each time that it was asked to end, and does not.
func stay() error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println("born to stay")
	for range term {
		fmt.Println("asked, and stays")
	}
	return nil
}

// eat takes memory, touches every page of it, and stays if it is to.
func eat(text string, stays bool) error {
	megabytes, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	var held [][]byte
	for i := range megabytes {
		page := make([]byte, 1<<20)
		for at := 0; at < len(page); at += 4096 {
			page[at] = byte(i) + 1
		}
		held = append(held, page)
		fmt.Println("holding", len(held), "MB")
	}
	for stays {
		time.Sleep(time.Hour)
		held[0][0]++ // all of it is still wanted
	}
	return nil
}

// serve tells every visitor the address that it comes from, by HTTP and by UDP. With a
// visit it ends when that is over.
func serve(visit func() error) error {
	at := ":" + os.Getenv("PORT0")
	packets, err := net.ListenPacket("udp4", at)
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() {
		buf := make([]byte, 1500)
		for {
			_, from, err := packets.ReadFrom(buf)
			if err == nil {
				_, err = packets.WriteTo([]byte(from.String()), from)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	l, err := net.Listen("tcp4", at)
	if err != nil {
		return err
	}
	go func() {
		ended <- http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "seen as", r.RemoteAddr)
		}))
	}()
	if visit != nil {
		return visit()
	}
	return <-ended
}

func get(url string) error {
	client := &http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println("status", resp.StatusCode)
	_, err = io.Copy(os.Stdout, io.LimitReader(resp.Body, 1<<16))
	return err
}

// udp asks until there is an answer: a datagram may be lost.
func udp(at string) error {
	c, err := net.Dial("udp4", at)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 1500)
	for range 5 {
		if _, err = c.Write([]byte("who am I?")); err != nil {
			continue
		}
		if err = c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		var n int
		if n, err = c.Read(buf); err == nil {
			fmt.Println("seen as", string(buf[:n]))
			return nil
		}
	}
	return err
}
