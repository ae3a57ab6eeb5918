package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/clusterd/calls"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/zookeeper"
)

// devZooKeeperPath is the group's path with --dev.
const devZooKeeperPath = "/mesos"

// listenZooKeeper opens the port on a node. init does not hold it, because it knows no
// document: whoever is turned away meanwhile tries the next node. Nor may a task in the
// host's network that took the port end clusterd: it is tried again until it is free.
func listenZooKeeper(ctx context.Context, port int, log *slog.Logger) (net.Listener, error) {
	for said := false; ; said = true {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err == nil {
			return l, nil
		}
		if !said {
			log.Error("the port of zookeeper: on cannot be opened; it is tried again until it can", "port", port, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// openZooKeeper listens for --zookeeper, where that was given.
func (m *membership) openZooKeeper(at netip.AddrPort) error {
	if !at.IsValid() {
		return nil
	}
	l, err := listenOn("--zookeeper", at)
	if err != nil {
		return err
	}
	m.doc.ZooKeeper = devZooKeeperPath
	m.zookeeper = func(context.Context) (net.Listener, error) { return l, nil }
	return nil
}

// serveZooKeeper answers ZooKeeper's clients and keeps what they are told current.
func (b *member) serveZooKeeper(ctx context.Context) error {
	l, err := b.zookeeper(ctx)
	if err != nil {
		return err
	}
	s := zookeeper.New(zookeeper.Config{Path: b.doc.ZooKeeper, Now: time.Now, Log: b.log.With("room", "zookeeper")})
	told := make(chan struct{})
	go func() {
		defer close(told)
		b.tellZooKeeper(ctx, s)
	}()
	err = s.Serve(ctx, l)
	if ctx.Err() != nil {
		<-told
		return nil
	}
	return fmt.Errorf("serve ZooKeeper's clients: %w", err)
}

func (b *member) tellZooKeeper(ctx context.Context, s *zookeeper.Server) {
	tick := time.NewTicker(time.Second) // nobody says when another master's address is known
	defer tick.Stop()
	for {
		standing, changed := b.board.Read()
		s.Post(b.zookeeperView(standing))
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// zookeeperView is what the shim tells of a standing. Masters have their place in the
// document, so that every node gives them the same numbers.
func (b *member) zookeeperView(s calls.Standing) zookeeper.View {
	v := zookeeper.View{Generation: s.Generation, Height: s.Height, Term: s.Term, Leads: s.Here}
	for _, name := range b.doc.Masters.Names {
		var info []byte
		if name != s.Leader {
			info = b.masterJSON(s.Generation+"-"+name, name)
		}
		v.Others = append(v.Others, info)
	}
	if s.Leader != "" {
		v.Leader = b.masterJSON(s.Generation, s.Leader)
	}
	return v
}

// masterJSON is a master's MasterInfo; nil: its address is not known.
func (b *member) masterJSON(id, name string) []byte {
	address := b.apiHostPort()
	if name != b.doc.Name {
		address = b.apiAddress(name)
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil
	}
	host := at.Addr().String()
	return mesosjson.Marshal(leader.MasterInfo(id, leader.Address{Host: host, IP: host, Port: int(at.Port())}))
}
