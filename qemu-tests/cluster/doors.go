package cluster

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Doors are the host's addresses of a cluster.
type Doors struct {
	// Number tells clusters on one host apart: it is in every address.
	Number int `json:"number"`
	// API is where frameworks and tools connect; any node behind it answers.
	API string `json:"api"`
	// Nodes has each node's own addresses.
	Nodes map[string]NodeDoors `json:"nodes"`
	// Registry takes images from the host; RegistryHost is its name on the LAN.
	Registry     string `json:"registry"`
	RegistryHost string `json:"registryHost"`
	// Socks reaches every address of the LAN.
	Socks string `json:"socks"`
}

// NodeDoors are one node's addresses on the host.
type NodeDoors struct {
	Host  string `json:"host"` // where further ports of the node are opened
	API   string `json:"api"`
	Agent string `json:"agent"`
	Node  string `json:"node"`
}

// maxClusters is how many clusters fit beside each other on one host.
const maxClusters = 250

// registryDoor is the last number of the registry's address.
const registryDoor = 254

// loopback gives the address of the n-th node of a cluster. All of 127/8 is the host's
// own on Linux; elsewhere only 127.0.0.1 is, and ports are taken as they are free.
func loopback(number, n int) string { return fmt.Sprintf("127.77.%d.%d", number, n) }

// OpenDoors opens the cluster to the host: each node's ports on a loopback address of
// its own, the API on 127.0.0.1:5050 too when that is free, the registry, and a SOCKS
// port for all the rest.
func (c *Cluster) OpenDoors() (Doors, error) {
	d, err := c.openDoors()
	if err != nil {
		return Doors{}, fmt.Errorf("open cluster %s to the host: %w", c.cfg.Name, err)
	}
	return d, nil
}

func (c *Cluster) openDoors() (Doors, error) {
	d := Doors{Nodes: map[string]NodeDoors{}, RegistryHost: c.Registry.Host}
	if err := c.claim(&d); err != nil {
		return d, err
	}
	var everyAPI []string
	for i, n := range c.cfg.Nodes {
		host := d.host(i + 1)
		doors := NodeDoors{Host: host}
		for port, at := range map[int]*string{APIPort: &doors.API, AgentPort: &doors.Agent, NodePort: &doors.Node} {
			var err error
			if *at, err = c.LAN.Forward(d.listen(host, port), lanAddress(n, port)); err != nil {
				return d, err
			}
		}
		d.Nodes[n.Name] = doors
		if n.Master {
			everyAPI = append(everyAPI, lanAddress(n, APIPort))
		}
	}
	var err error
	usual := net.JoinHostPort("127.0.0.1", strconv.Itoa(APIPort))
	if d.API, err = c.LAN.Forward(usual, everyAPI...); err != nil {
		if !errors.Is(err, syscall.EADDRINUSE) {
			return d, err
		}
		// Another cluster, or a program of the user's, has the usual one.
		if d.API, err = c.LAN.Forward(d.listen(d.host(registryDoor-1), APIPort), everyAPI...); err != nil {
			return d, err
		}
	}
	d.Socks, err = c.LAN.Socks(net.JoinHostPort("127.0.0.1", "0"))
	return d, err
}

// claim takes the lowest number that no other cluster on this host has; the registry's
// port is the claim. Where only 127.0.0.1 exists the number stays 0.
func (c *Cluster) claim(d *Doors) error {
	for number := 1; number <= maxClusters; number++ {
		at, err := c.Registry.Open(net.JoinHostPort(loopback(number, registryDoor), strconv.Itoa(RegistryPort)), c.cfg.Log)
		switch {
		case err == nil:
			d.Number, d.Registry = number, at
			return nil
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			d.Registry, err = c.Registry.Open("127.0.0.1:0", c.cfg.Log)
			return err
		case !errors.Is(err, syscall.EADDRINUSE):
			return err
		}
	}
	return fmt.Errorf("%d clusters run on this host already", maxClusters)
}

func (d Doors) host(n int) string {
	if d.Number == 0 {
		return "127.0.0.1"
	}
	return loopback(d.Number, n)
}

// listen gives the address for a port: the same number where the node has an address of
// its own, any free one elsewhere.
func (d Doors) listen(host string, port int) string {
	if d.Number == 0 {
		port = 0
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func lanAddress(n Node, port int) string {
	return net.JoinHostPort(n.Address.String(), strconv.Itoa(port))
}

// servicePort is where the first service of a cluster answers on the host.
const servicePort = 8080

// OpenService opens an address of the host that stays the same while what is behind it,
// an address on the LAN, comes and goes; empty is nothing.
func (c *Cluster) OpenService(d Doors, onLAN func() string) (string, error) {
	target := func() []string {
		if at := onLAN(); at != "" {
			return []string{at}
		}
		return nil
	}
	at, err := c.LAN.ForwardFunc(d.listen(d.host(registryDoor), servicePort), target)
	if errors.Is(err, syscall.EADDRINUSE) {
		at, err = c.LAN.ForwardFunc(net.JoinHostPort(d.host(registryDoor), "0"), target)
	}
	return at, err
}

// OpenPort opens one more port of a node to the host, for a printed URL, and gives the
// address to print.
func (c *Cluster) OpenPort(d Doors, address string) (string, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("open %s to the host: %w", address, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return "", fmt.Errorf("open %s to the host: %w", address, err)
	}
	n, err := c.byHost(host)
	if err != nil {
		return "", fmt.Errorf("open %s to the host: %w", address, err)
	}
	listen := d.listen(d.Nodes[n.Name].Host, int(port))
	at, err := c.LAN.Forward(listen, lanAddress(n, int(port)))
	if errors.Is(err, syscall.EADDRINUSE) && d.Number != 0 {
		return listen, nil // nobody else has this address: it was opened before
	}
	return at, err
}
