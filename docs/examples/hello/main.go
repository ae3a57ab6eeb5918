// Hello is a small HTTP service for a long-running task: it says who answered, and ends
// when it is told to.
//
// It listens on the port that its framework took from an offer, given as PORT0, and on
// 8080 without one. SIGTERM, which a kill begins with, lets open requests end.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, port()); err != nil {
		log.Fatal(err)
	}
}

func port() string {
	if p := os.Getenv("PORT0"); p != "" {
		return p
	}
	return "8080"
}

func run(ctx context.Context, port string) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find the host's name: %w", err)
	}
	server := &http.Server{Addr: ":" + port, Handler: handler(host), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	log.Printf("hello listens on port %s of %s", port, host)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func handler(host string) http.Handler {
	began := time.Now()
	var visits atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "Hello from %s: visit %d, up for %s.\n", host, visits.Add(1), time.Since(began).Round(time.Second))
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	return mux
}
