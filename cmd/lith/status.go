package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/node"
)

// statusView is what `lith status --json` prints.
type statusView struct {
	Cluster string      `json:"cluster"`
	API     string      `json:"api"` // URL of the Mesos API, on this machine
	Summary string      `json:"summary"`
	Healthy bool        `json:"healthy"`
	Leader  string      `json:"leader"` // empty: none
	Tasks   int         `json:"tasks"`
	Nodes   []nodeView  `json:"nodes"`
	Held    []node.Held `json:"held,omitempty"`
	Clocks  []string    `json:"clocks,omitempty"` // those that are far apart, in words
	// Masters is absent where nobody can say which nodes are masters.
	Masters *mastersView `json:"masters,omitempty"`
}

// mastersView is how many masters there are, as their own sides say.
type mastersView struct {
	Listed int    `json:"listed"`
	Answer int    `json:"answer"`
	Needed int    `json:"needed"`        // for a leader
	Why    string `json:"why,omitempty"` // there is no leader, as one of them says
}

// heldSentence says what a machine that waits for `lith nodes admit` means.
func heldSentence(h node.Held) string {
	return fmt.Sprintf("another machine than the cluster knows answers as %s (hardware %.12s for %.12s), and has no vote until `lith nodes admit %s`", h.Master, h.Hardware, h.Known, h.Master)
}

func statusCommand() *cobra.Command {
	var f targetFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Say in a sentence how the cluster is, and show its nodes",
		Long: `Say in a sentence how the cluster is, then who leads and how each node is:

  ready        its agent is attached to the leader and takes tasks
  joining      it answers, but its agent is not attached (yet)
  booting      it does not answer, and the cluster was started less than 3 minutes ago
  unreachable  it does not answer

Clocks that are more than five minutes apart are named. The exit code is 0 when all is well and 1 when not.`,
		Example: "  lith status\n  lith status --json | jq -r .leader\n  lith status --api http://127.0.0.1:5050",
		Args:    noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := f.open()
			if err != nil {
				return err
			}
			s, err := t.status(cmd.Context(), time.Now())
			if err != nil {
				return err
			}
			if err := s.print(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			if !s.Healthy {
				return exitError{1}
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (t *target) status(ctx context.Context, now time.Time) (statusView, error) {
	s := statusView{Cluster: t.name, API: t.api[0], Nodes: []nodeView{}}
	leader, err := t.leader(ctx)
	if err != nil && len(t.nodes) == 0 {
		return s, err
	}
	s.Leader = leader
	var state *master.Response_GetState
	if leader != "" {
		resp, err := t.operate(ctx, master.Call_GET_STATE)
		if err != nil {
			return s, err
		}
		state = resp.GetGetState()
	}
	s.Nodes = append(s.Nodes, t.joinNodes(ctx, state, now)...)
	for _, n := range s.Nodes {
		s.Tasks += n.Tasks
	}
	all := t.reports(ctx)
	s.Held = heldBy(all)
	s.masters(all)
	s.judge()
	s.addClocks(t.clocks(ctx))
	return s, nil
}

// addClocks tells of clocks that are far apart; the cluster works all the same.
func (s *statusView) addClocks(skewed []string) {
	if s.Clocks = skewed; len(skewed) > 0 {
		s.Summary += " But " + strings.Join(skewed, ", and ") + "."
	}
}

// masters counts those that answer, and asks one why there is no leader.
func (s *statusView) masters(all []report) {
	var m mastersView
	for _, r := range all {
		if !r.master {
			continue
		}
		m.Listed++
		if said := r.health.Status; r.err == nil && (said.Role == "master" || said.Role == "leader") {
			m.Answer++
			if said.Leader == "" && m.Why == "" && said.Summary != "" {
				m.Why = r.name + ": " + said.Summary
			}
		}
	}
	if m.Listed > 0 {
		m.Needed = m.Listed/2 + 1
		s.Masters = &m
	}
}

// judge puts the whole into one sentence: what is wrong, and what that means for tasks.
func (s *statusView) judge() {
	var bad []string
	silent := 0
	for _, n := range s.Nodes {
		if n.State != nodeReady {
			bad = append(bad, n.Name+" is "+n.State)
			silent += n.Tasks
		}
	}
	ready := fmt.Sprintf("%d of %s ready", len(s.Nodes)-len(bad), plural(len(s.Nodes), "node is", "nodes are"))
	tasks := plural(s.Tasks, "task runs", "tasks run")
	if silent > 0 {
		tasks = fmt.Sprintf("%s, %d of them on nodes that are not heard: these may go on or be lost", tasks, silent)
	}
	nodes := orNothing(bad)
	for _, h := range s.Held {
		bad = append(bad, heldSentence(h))
	}
	switch {
	case s.Leader == "":
		s.Summary = fmt.Sprintf("Cluster %s has no leader: what runs goes on, nothing new can start, and nobody is told of what ends. %s", s.Cluster, s.leaderless(nodes))
	case len(bad) > 0:
		s.Summary = fmt.Sprintf("Cluster %s works, led by %s, but %s: %s; %s.", s.Cluster, s.Leader, ready, strings.Join(bad, ", "), tasks)
	case len(s.Nodes) == 0:
		s.Summary = fmt.Sprintf("Cluster %s is led by %s, but no agent is attached yet.", s.Cluster, s.Leader)
	default:
		s.Healthy = true
		s.Summary = fmt.Sprintf("Cluster %s is well: %s leads, %s, %s.", s.Cluster, s.Leader, ready, tasks)
	}
}

// leaderless says what is missing for a leader.
func (s *statusView) leaderless(nodes string) string {
	m := s.Masters
	switch {
	case m == nil:
		return nodes + "."
	case m.Answer < m.Needed:
		return fmt.Sprintf("%d of %s, %d are needed: %s.", m.Answer, plural(m.Listed, "master answers", "masters answer"), m.Needed, nodes)
	case m.Why != "":
		return fmt.Sprintf("%d of %s: %s.", m.Answer, plural(m.Listed, "master answers", "masters answer"), m.Why)
	}
	return fmt.Sprintf("%d of %s, and an election takes a moment.", m.Answer, plural(m.Listed, "master answers", "masters answer"))
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "no node is missing"
	}
	return strings.Join(list, ", ")
}

func (s statusView) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, s)
	}
	fmt.Fprintf(w, "%s\nMesos API: %s\n\n", s.Summary, s.API)
	rows := make([][]string, 0, len(s.Nodes))
	for _, n := range s.Nodes {
		roles := strings.Join(n.Roles, ", ")
		if n.Name == s.Leader {
			roles += " (leads)"
		}
		rows = append(rows, []string{n.Name, n.State, n.Address, roles, fmt.Sprint(n.Tasks)})
	}
	return printTable(w, []string{"NODE", "STATE", "ADDRESS", "ROLES", "TASKS"}, rows)
}

func nodesCommand() *cobra.Command {
	var f targetFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "nodes", Short: "List the nodes with what they have and what is used",
		Example: "  lith nodes\n  lith nodes --json\n  lith nodes admit n3",
		Args:    noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := f.open()
			if err != nil {
				return err
			}
			s, err := t.status(cmd.Context(), time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s.Nodes)
			}
			rows := make([][]string, 0, len(s.Nodes))
			for _, n := range s.Nodes {
				rows = append(rows, []string{
					n.Name, n.State, n.Address, fmt.Sprintf("%.2f of %.2f", n.CPUs.Used, n.CPUs.Total),
					fmt.Sprintf("%.0f of %.0f MB", n.MemMB.Used, n.MemMB.Total), fmt.Sprint(n.Tasks), n.AgentID,
				})
			}
			return printTable(cmd.OutOrStdout(), []string{"NODE", "STATE", "ADDRESS", "CPUS", "MEMORY", "TASKS", "AGENT"}, rows)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(admitCommand())
	return cmd
}

// probe asks a node that is not attached whether it answers at all.
func (t *target) probe(ctx context.Context, name string, now time.Time) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, n := range t.nodes {
		if n.Name != name {
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.api+"/health", nil)
		if err == nil {
			if _, err = t.do(req); err == nil {
				return nodeJoining
			}
		}
	}
	if now.Sub(t.since) < bootTime {
		return nodeBooting
	}
	return nodeUnreachable
}
