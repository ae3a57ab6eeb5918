package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

// However much the machines had to say before: who waits for the end of a start hears it.
func TestTheEndOfAStartIsAlwaysTold(t *testing.T) {
	s := &supervisor{changed: make(chan struct{}), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for range maxEvents + 10 {
		s.add(event{Kind: eventTrouble, Node: "n1", Text: "again"})
	}
	s.add(event{Kind: eventReady, Text: "1 of 1 nodes"})
	server := httptest.NewServer(http.HandlerFunc(s.serveEvents))
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for n := 1; ; n++ {
		var e event
		if err := lines.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == eventReady {
			if n != maxEvents+1 {
				t.Errorf("%d events were kept", n)
			}
			return
		}
	}
}
