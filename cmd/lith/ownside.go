package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mesolith/mesolith/api/node"
)

// healthTime bounds asking all nodes how they are; those that are off cost no more.
const healthTime = 5 * time.Second

// ownSide is the way to one machine's own side.
type ownSide struct {
	name   string
	master bool
	api    string // its Mesos API's URL; empty: nobody knows
	client *node.Client
}

// ownSides are those of all nodes that can be reached from here.
func (t *target) ownSides() []ownSide {
	var out []ownSide
	for _, n := range t.nodes {
		out = append(out, ownSide{n.Name, n.Master, n.api, &node.Client{Base: n.node, HTTP: t.http}})
	}
	if len(out) == 0 && t.http.Transport != nil { // by URL: the node that it names
		if u, err := url.Parse(t.api[0]); err == nil {
			out = append(out, ownSide{name: u.Hostname(), api: t.api[0], client: &node.Client{Base: "https://" + net.JoinHostPort(u.Hostname(), strconv.Itoa(nodePort)), HTTP: t.http}})
		}
	}
	return out
}

// report is what one node's own side said.
type report struct {
	ownSide
	health node.Health
	err    error
}

// reports asks the own side of every node at once.
func (t *target) reports(ctx context.Context) []report {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	var out []report
	for _, s := range t.ownSides() {
		out = append(out, report{ownSide: s})
	}
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { out[i].health, out[i].err = out[i].client.Health(ctx) })
	}
	wg.Wait()
	return out
}

// heldBy gathers the machines that wait, each once.
func heldBy(reports []report) []node.Held {
	var held []node.Held
	for _, r := range reports {
		for _, h := range r.health.Status.Held {
			if !slices.Contains(held, h) {
				held = append(held, h)
			}
		}
	}
	slices.SortFunc(held, func(a, b node.Held) int {
		return cmp.Or(strings.Compare(a.Master, b.Master), strings.Compare(a.Hardware, b.Hardware))
	})
	return held
}

// heardFrom says who answered, for an error's sake.
func heardFrom(all []report) string {
	answered := 0
	for _, r := range all {
		if r.err == nil {
			answered++
		}
	}
	return fmt.Sprintf("%d of %s answered", answered, plural(len(all), "node", "nodes"))
}
