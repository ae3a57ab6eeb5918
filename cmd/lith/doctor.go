package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/node"
)

func doctorCommand() *cobra.Command {
	var f targetFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Run the checks that somebody who helps would run first",
		Long: `Ask every machine's own side and the cluster, and judge what they say: whether machines
answer, programs stay up, clocks agree, certificates last, memory is left; whether the
masters have a majority, one leader and one term; whether nodes, frameworks and tasks are
where they should be. Nothing is changed.

Each finding says what is wrong, what it means, and what to do. The exit code is 0 when
nothing is wrong, 1 when something is; warnings alone are 0.`,
		Example: "  lith doctor\n  lith doctor --json | jq '.findings[] | select(.grade == \"wrong\")'",
		Args:    noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := f.open()
			if err != nil {
				return err
			}
			if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
				fmt.Fprintf(f, "asking %s and the cluster, %.0f s at most…\n", plural(len(t.ownSides()), "node", "nodes"), askTime.Seconds())
			}
			d := diagnose(t.examine(cmd.Context(), time.Now))
			if err := d.print(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			if d.Wrong > 0 {
				return exitError{1}
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// facts are what a diagnosis is made from.
type facts struct {
	cluster string
	at      string // how the cluster is named in commands
	young   bool   // started so lately that machines may still boot
	nodes   []nodeFacts
	leader  string
	state   *master.Response_GetState // nil: nobody leads, or it was not told
	// apiErr is why the cluster's own API did not answer.
	apiErr error
}

// nodeFacts are one node's.
type nodeFacts struct {
	name     string
	master   bool
	asked    time.Time // the middle of the question that health answered, on this machine's clock
	health   node.Health
	err      error // the machine's own side did not answer
	services []node.Service
	memory   node.Memory
	nics     []node.NIC
	crash    string // what the kernel said when it last crashed, its first lines
	api      string // why the node's Mesos API does not answer; empty: it does
}

// examine asks everybody at once; who is silent costs no more than healthTime.
func (t *target) examine(ctx context.Context, now func() time.Time) facts {
	out := facts{cluster: t.name, at: t.at(), young: now().Sub(t.since) < bootTime}
	clients := t.ownSides()
	out.nodes = make([]nodeFacts, len(clients))
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() { out.nodes[i] = t.examineNode(ctx, c, now) })
	}
	all.Go(func() {
		if out.leader, out.apiErr = t.leader(ctx); out.leader == "" || out.apiErr != nil {
			return
		}
		resp, err := t.operate(ctx, master.Call_GET_STATE)
		if out.apiErr = err; err == nil {
			out.state = resp.GetGetState()
		}
	})
	all.Wait()
	return out
}

// maxCrash bounds what is read of a crash, in bytes.
const maxCrash = 2048

func (t *target) examineNode(ctx context.Context, c ownSide, now func() time.Time) nodeFacts {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	n := nodeFacts{name: c.name, master: c.master}
	began := now()
	n.health, n.err = c.client.Health(ctx)
	n.asked = began.Add(now().Sub(began) / 2)
	if c.api != "" {
		n.api = t.answers(ctx, c.api)
	}
	if n.err != nil {
		return n
	}
	// What a node does not say is not judged: it may run an older image.
	n.services, _ = c.client.Services(ctx)
	n.memory, _ = c.client.Memory(ctx)
	if i, err := c.client.Inventory(ctx); err == nil {
		n.nics = i.NICs
	}
	if log, err := c.client.Logs(ctx, "crash", false); err == nil {
		raw, err := io.ReadAll(io.LimitReader(log, maxCrash))
		log.Close()
		if err == nil {
			n.crash = string(raw)
		}
	}
	return n
}

// answers says why a node's API does not.
func (t *target) answers(ctx context.Context, base string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/health", nil)
	if err == nil {
		_, err = t.do(req)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// diagnosis is what `lith doctor --json` prints.
type diagnosis struct {
	Cluster  string    `json:"cluster"`
	Checks   int       `json:"checks"` // how many were made
	Wrong    int       `json:"wrong"`
	Warnings int       `json:"warnings"`
	Findings []finding `json:"findings"`
}

// finding is one thing that was looked at.
type finding struct {
	Grade string `json:"grade"` // ok, warning, wrong
	About string `json:"about"` // cluster, masters, or a node's name
	What  string `json:"what"`
	Means string `json:"means,omitempty"` // for tasks and operators
	Do    string `json:"do,omitempty"`
}

// Grades of findings.
const (
	gradeOK      = "ok"
	gradeWarning = "warning"
	gradeWrong   = "wrong"
)

func (d *diagnosis) ok(about, format string, args ...any) {
	d.Findings = append(d.Findings, finding{Grade: gradeOK, About: about, What: fmt.Sprintf(format, args...)})
}

func (d *diagnosis) warn(about, what, means, do string) {
	d.Findings = append(d.Findings, finding{gradeWarning, about, what, means, do})
}

func (d *diagnosis) wrong(about, what, means, do string) {
	d.Findings = append(d.Findings, finding{gradeWrong, about, what, means, do})
}

// count adds up the grades.
func (d *diagnosis) count() {
	d.Checks = len(d.Findings)
	for _, f := range d.Findings {
		switch f.Grade {
		case gradeWrong:
			d.Wrong++
		case gradeWarning:
			d.Warnings++
		}
	}
}

func (d diagnosis) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, d)
	}
	var out strings.Builder
	for _, grade := range []string{gradeWrong, gradeWarning, gradeOK} {
		for _, f := range d.Findings {
			if f.Grade != grade {
				continue
			}
			fmt.Fprintf(&out, "%-8s %-8s %s\n", f.Grade, f.About, f.What)
			for _, more := range []string{f.Means, f.Do} {
				if more != "" {
					fmt.Fprintf(&out, "%-17s %s\n", "", more)
				}
			}
		}
	}
	switch {
	case d.Wrong > 0:
		fmt.Fprintf(&out, "\n%s: %s wrong, %s, of %s.\n", d.Cluster, plural(d.Wrong, "thing is", "things are"), plural(d.Warnings, "warning", "warnings"), plural(d.Checks, "check", "checks"))
	case d.Warnings > 0:
		fmt.Fprintf(&out, "\n%s: nothing is wrong; %s, of %s.\n", d.Cluster, plural(d.Warnings, "warning", "warnings"), plural(d.Checks, "check", "checks"))
	default:
		fmt.Fprintf(&out, "\n%s: nothing is wrong, after %s.\n", d.Cluster, plural(d.Checks, "check", "checks"))
	}
	_, err := io.WriteString(w, out.String())
	return err
}
