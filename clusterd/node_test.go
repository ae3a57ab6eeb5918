package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/mesolith/mesolith/clusterd/machine"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/noded"
)

// An address that is lost for a while is borne; another one ends clusterd, so that it
// comes back with it.
func TestAnotherAddressIsAnotherStart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "noded.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tell := make(chan []string)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for addresses := range tell {
			event := &noded.Response{Body: &noded.Response_Node{Node: &noded.Node{Addresses: addresses}}}
			if wire.Write(conn, event) != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client := machine.New(socket, slog.New(slog.DiscardHandler))
	running := make(chan error, 1)
	go func() { running <- client.Run(ctx) }()
	followed := make(chan error, 1)
	go func() { followed <- follow(ctx, client, &identity{}, "10.7.0.11/24", slog.New(slog.DiscardHandler)) }()
	for _, addresses := range [][]string{{"10.7.0.11/24"}, nil, {"10.7.0.11/24", "10.40.0.11/24"}} {
		tell <- addresses
		if _, err := client.Wait(ctx, func(n *noded.Node) bool { return len(n.GetAddresses()) == len(addresses) }); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-followed:
			t.Fatalf("with %v it ended: %v", addresses, err)
		default:
		}
	}
	tell <- []string{"10.7.0.99/24"}
	if err := <-followed; !errors.Is(err, errMoved) {
		t.Errorf("ended with %v", err)
	}
	close(tell)
	cancel()
	<-running
}
