package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mesolith/mesolith/api/node"
)

// Ports of a node.
const (
	APIPort   = 5050
	AgentPort = 5051
	NodePort  = 5053
)

// askEvery is how often a state is asked for while it is awaited.
const askEvery = 100 * time.Millisecond

// maxAnswer bounds an answer of the API that is read here.
const maxAnswer = 16 << 20

// ErrNoLeader says that the nodes answer but none leads.
var ErrNoLeader = errors.New("no leader elected")

// Client speaks HTTP to addresses on the LAN with the cluster's transport.
func (c *Cluster) Client() *http.Client { return c.client }

// URL is a node's API with a path.
func (c *Cluster) URL(n Node, path string) string {
	scheme := "https"
	if c.cfg.Plaintext {
		scheme = "http"
	}
	return (&url.URL{Scheme: scheme, Host: net.JoinHostPort(n.Address.String(), strconv.Itoa(APIPort)), Path: path}).String()
}

// APIs are the URLs of the masters' API on the LAN, for Client.
func (c *Cluster) APIs() []string {
	var urls []string
	for _, n := range c.cfg.Nodes {
		if n.Master {
			urls = append(urls, c.URL(n, ""))
		}
	}
	return urls
}

// Leader asks every running master who leads; the first answer counts.
func (c *Cluster) Leader(ctx context.Context) (Node, error) {
	var troubles []error
	for _, m := range c.Machines() {
		if !m.Running() {
			continue
		}
		leader, err := c.askLeader(ctx, m.Node)
		if err == nil {
			return leader, nil
		}
		troubles = append(troubles, fmt.Errorf("%s: %w", m.Node.Name, err))
	}
	if len(troubles) == 0 {
		return Node{}, ErrOff
	}
	return Node{}, errors.Join(troubles...)
}

func (c *Cluster) askLeader(ctx context.Context, n Node) (Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL(n, "/redirect"), nil)
	if err != nil {
		return Node{}, err
	}
	resp, err := c.client.Transport.RoundTrip(req)
	if err != nil {
		return Node{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect {
		return Node{}, fmt.Errorf("%w (status %d)", ErrNoLeader, resp.StatusCode)
	}
	at, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		return Node{}, fmt.Errorf("location of the leader: %w", err)
	}
	return c.byHost(at.Hostname())
}

// byHost finds a node by its address or name.
func (c *Cluster) byHost(host string) (Node, error) {
	addr, _ := netip.ParseAddr(host)
	for _, n := range c.cfg.Nodes {
		if n.Address == addr || strings.EqualFold(n.Name, host) {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("%q is not a node of this cluster", host)
}

// WaitLeader waits until a node names a leader other than the ones excluded.
func (c *Cluster) WaitLeader(ctx context.Context, not ...string) (Node, error) {
	var leader Node
	err := c.await(ctx, func() error {
		var err error
		leader, err = c.Leader(ctx)
		for _, name := range not {
			if err == nil && leader.Name == name {
				return fmt.Errorf("the leader is still %s", name)
			}
		}
		return err
	})
	if err != nil {
		return Node{}, fmt.Errorf("waiting for a leader of %s: %w", c.cfg.Name, err)
	}
	return leader, nil
}

// Agent is an agent as the leader lists it.
type Agent struct {
	ID       string `json:"id"`
	Hostname string `json:"hostname"`
	Active   bool   `json:"active"`
}

// Agents lists the agents that the leader knows.
func (c *Cluster) Agents(ctx context.Context) ([]Agent, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	return c.AgentsBy(ctx, leader)
}

// AgentsBy lists the agents that one node knows of.
func (c *Cluster) AgentsBy(ctx context.Context, n Node) ([]Agent, error) {
	var answer struct {
		Slaves []Agent `json:"slaves"`
	}
	if err := c.getJSON(ctx, c.URL(n, "/slaves"), &answer); err != nil {
		return nil, err
	}
	return answer.Slaves, nil
}

func (c *Cluster) getJSON(ctx context.Context, at string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read %s: %w", at, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %.200s", at, resp.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("answer of %s: %w", at, err)
	}
	return nil
}

// WaitReady waits until the agent of each running machine is attached to the leader: the
// one that the machine itself names. A machine that has just begun anew is known under its
// former agent until the leader misses it, and what is launched there is lost with it. And
// until each master that runs has a vote: until then no other one may be lost.
func (c *Cluster) WaitReady(ctx context.Context) error {
	err := c.await(ctx, func() error {
		agents, err := c.Agents(ctx)
		if err != nil {
			return err
		}
		active := map[string]bool{}
		for _, a := range agents {
			active[a.ID] = a.Active
		}
		for _, m := range c.Machines() {
			if !m.Running() {
				continue
			}
			own, err := c.ownStatus(ctx, m.Node)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Node.Name, err)
			}
			if !active[own.AgentID] {
				return fmt.Errorf("the agent of %s (%q) is not attached; the leader has %v", m.Node.Name, own.AgentID, agents)
			}
			if own.Role != "agent" && !own.Votes {
				return fmt.Errorf("%s is a master and has no vote yet", m.Node.Name)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the agents of %s: %w", c.cfg.Name, err)
	}
	return nil
}

// ownStatus is the cluster as a machine has it; without an agent's id before it has one.
func (c *Cluster) ownStatus(ctx context.Context, n Node) (node.ClusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	api := node.Client{Base: "https://" + net.JoinHostPort(n.Address.String(), strconv.Itoa(NodePort)), HTTP: c.client}
	h, err := api.Health(ctx)
	return h.Status, err
}

// await asks until there is no error; when ctx ends first, the newest one says what was
// missing, and the consoles' last lines say why.
func (c *Cluster) await(ctx context.Context, ask func() error) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var newest error
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || newest == nil {
			newest = err // and not the one that the end of ctx has caused
		}
		if err := c.dead(); err != nil {
			return errors.Join(err, newest)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the newest answer: %w\n%s", ctx.Err(), newest, c.consoles())
		case <-tick.C:
		}
	}
}

// dead tells when no machine runs any more: then nothing will come.
func (c *Cluster) dead() error {
	for _, m := range c.Machines() {
		if m.Running() {
			return nil
		}
	}
	return fmt.Errorf("no machine runs\n%s", c.consoles())
}

func (c *Cluster) consoles() string {
	var b strings.Builder
	for _, m := range c.Machines() {
		if v := m.VM(); v != nil {
			fmt.Fprintf(&b, "  console of %s:\n%s", m.Node.Name, v.Console.Tail(8))
		}
	}
	return b.String()
}

// Restore brings the cluster back to where tests begin: no faults, every machine on and
// ready.
func (c *Cluster) Restore(ctx context.Context) error {
	c.LAN.Heal()
	for _, m := range c.Machines() {
		if err := m.PowerOn(ctx); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}
