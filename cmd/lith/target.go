package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
)

// apiEnv names the variable that --api's default comes from.
const apiEnv = "LITH_API"

// Ports of a node, where a cluster has no doors of its own on this machine.
const nodePort = 5053

// askTime bounds one question to a cluster; between two leaders answers come late.
const askTime = 20 * time.Second

// maxAnswer bounds one answer, in bytes: a state with 100,000 tasks fits.
const maxAnswer = 256 << 20

// targetFlags say which cluster a command means.
type targetFlags struct{ dir, api string }

func (f *targetFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "cluster", "", "directory of the cluster (default $"+clusterDirEnv+" or ./"+defaultClusterDir+")")
	cmd.Flags().StringVar(&f.api, "api", "", "URL of any node's API instead, as http://127.0.0.1:5050 (default $"+apiEnv+")")
	completeFiles(cmd, []string{"cluster"}, nil)
}

// target is a cluster that commands talk to through its public API.
type target struct {
	name  string
	dir   string
	api   []string     // URLs; any of them answers for the whole cluster
	http  *http.Client // without a time limit: streams go through it
	nodes []targetNode // those that the cluster's directory knows; none with --api
	since time.Time    // when the cluster was started; zero when nobody knows
}

type targetNode struct {
	stateNode
	api, agent, node string // URLs on this machine
}

// open finds the cluster that the flags mean.
func (f targetFlags) open() (*target, error) {
	dir, err := clusterDirFlag(f.dir)
	if err != nil {
		return nil, err
	}
	api := f.api
	if api == "" && f.dir == "" {
		api = os.Getenv(apiEnv)
	}
	if api != "" {
		return openURL(api, dir)
	}
	state, err := readClusterState(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if err := checkRuns(ctx, dir); err != nil {
		return nil, err
	}
	return openDir(dir, state)
}

func openURL(api, dir string) (*target, error) {
	u, err := url.Parse(api)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--api %q is no URL: write it as http://127.0.0.1:5050", api)
	}
	t := &target{name: u.Host, dir: dir, api: []string{strings.TrimSuffix(api, "/")}, http: &http.Client{CheckRedirect: noRedirect}}
	transport, err := operatorTransport(dir)
	if err != nil && u.Scheme == "http" {
		return t, nil // whose machines' own side is then out of reach: see machine
	}
	if err != nil {
		return nil, fmt.Errorf("%s needs the operator's certificate of that cluster, which `lith plan -o DIR` writes: %w", api, err)
	}
	t.http.Transport = transport(nil)
	return t, nil
}

func openDir(dir string, state clusterState) (*target, error) {
	transport, err := operatorTransport(dir)
	if err != nil {
		return nil, err
	}
	scheme := "https://"
	if state.Plaintext {
		scheme = "http://"
	}
	t := &target{
		name: state.Name, dir: dir, since: state.Started, api: []string{scheme + state.Doors.API},
		http: &http.Client{Transport: transport(nil), CheckRedirect: noRedirect},
	}
	for _, n := range state.Nodes {
		doors := state.Doors.Nodes[n.Name]
		t.nodes = append(t.nodes, targetNode{
			stateNode: n, api: scheme + doors.API, agent: scheme + doors.Agent, node: "https://" + doors.Node,
		})
		t.api = append(t.api, scheme+doors.API)
	}
	return t, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// at is how this cluster is named to a person in commands to type.
func (t *target) at() string {
	switch {
	case len(t.nodes) > 0:
		return atDir(t.dir)
	case t.http.Transport == nil:
		return " --api " + t.api[0]
	}
	return " --api " + t.api[0] + atDir(t.dir)
}

// refusedError is an answer that is no success.
type refusedError struct {
	url  string
	code int
	text string
}

func (e *refusedError) Error() string {
	s := fmt.Sprintf("%s answers %d %s: %.300s", e.url, e.code, http.StatusText(e.code), strings.TrimSpace(e.text))
	switch e.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		s += " (the operator's certificate is in the cluster's directory: name it with --cluster DIR)"
	case http.StatusServiceUnavailable:
		s += " (`lith status` shows the nodes; a majority of the masters must be up)"
	}
	return s
}

// operate asks the operator API: the first node that answers counts.
func (t *target) operate(ctx context.Context, call master.Call_Type) (*master.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	body, err := proto.Marshal(&master.Call{Type: call.Enum()})
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, base := range t.api {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/api/v1", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/x-protobuf")
		req.Header.Set("Accept", "application/x-protobuf")
		raw, err := t.do(req)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		resp := &master.Response{}
		if err := proto.Unmarshal(raw, resp); err != nil {
			return nil, fmt.Errorf("%s answers %s with something else: %w", base, call, err)
		}
		return resp, nil
	}
	return nil, fmt.Errorf("no node of cluster %s answers: %w", t.name, onePerCause(failed))
}

// onePerCause keeps an error of many nodes short: refusals first, one of each text.
func onePerCause(errs []error) error {
	slices.SortStableFunc(errs, func(a, b error) int { return rank(a) - rank(b) })
	if len(errs) > 2 {
		errs = errs[:2]
	}
	return errors.Join(errs...)
}

func rank(err error) int {
	var refused *refusedError
	if errors.As(err, &refused) {
		return 0
	}
	return 1
}

func (t *target) do(req *http.Request) ([]byte, error) {
	resp, err := t.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", req.URL, err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, &refusedError{url: req.URL.String(), code: resp.StatusCode, text: string(raw)}
	}
	return raw, nil
}

// leader gives the leading node's name, empty when there is none.
func (t *target) leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var failed []error
	for _, base := range t.api {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/redirect", nil)
		if err != nil {
			return "", err
		}
		resp, err := t.http.Do(req)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		resp.Body.Close()
		if at, err := resp.Location(); err == nil {
			return t.nodeName(at.Hostname()), nil
		}
		failed = append(failed, nil)
	}
	for _, err := range failed {
		if err == nil {
			return "", nil // somebody answered, and knows no leader
		}
	}
	return "", fmt.Errorf("no node of cluster %s answers: %w", t.name, onePerCause(failed))
}

// nodeName gives the node at an address of the LAN; the address itself where nobody knows.
func (t *target) nodeName(host string) string {
	for _, n := range t.nodes {
		if n.Address == host || n.Name == host {
			return n.Name
		}
	}
	return host
}

// fromHere is where a port of a node is reached from this machine. The LAN of `lith up` is
// the supervisor's, which opens the port; elsewhere the address is good as it is.
func (t *target) fromHere(ctx context.Context, address string) string {
	if len(t.nodes) == 0 {
		return address
	}
	at, err := askSupervisor(ctx, t.dir, http.MethodPost, "/open?"+url.Values{"address": {address}}.Encode())
	if err != nil {
		return address + " on the cluster's LAN"
	}
	return at
}

// agentURL is where an agent's port is reached from here.
func (t *target) agentURL(a *mesosv1.AgentInfo) string {
	for _, n := range t.nodes {
		if n.Address == a.GetHostname() || n.Name == a.GetHostname() {
			return n.agent
		}
	}
	scheme, _, _ := strings.Cut(t.api[0], ":")
	return scheme + "://" + net.JoinHostPort(a.GetHostname(), strconv.Itoa(int(a.GetPort())))
}

// machine is a node as the machine's own side of it: reached without any cluster.
func (t *target) machine(name string) (string, error) {
	var names []string
	for _, n := range t.nodes {
		if n.Name == name {
			return n.node, nil
		}
		names = append(names, n.Name)
	}
	switch {
	case len(t.nodes) == 0 && t.http.Transport == nil:
		return "", fmt.Errorf("a machine's own side takes the operator's certificate only, and %s holds none: name the directory that `lith plan -o DIR` or `lith up` has written with --cluster", t.dir)
	case len(t.nodes) == 0:
		return "https://" + net.JoinHostPort(name, strconv.Itoa(nodePort)), nil // by address
	}
	return "", fmt.Errorf("cluster %s has no node %q: it has %s", t.name, name, strings.Join(names, ", "))
}
