package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mesolith/mesolith/api/node"
)

// healthTime bounds asking all nodes how they are; those that are off cost no more.
const healthTime = 5 * time.Second

func admitCommand() *cobra.Command {
	var f targetFlags
	var yes bool
	cmd := &cobra.Command{
		Use: "admit MASTER", Short: "Let another machine carry a master's name",
		Long: `Let the machine that answers under a master's name carry it from now on.

A master that reboots comes back by itself. When another machine answers under its name
(a replaced mainboard, but also a copied medium), it gets no vote: the machine that the
cluster knows may be alive where nobody hears it. ` + "`lith status`" + ` says so. Switch the former
machine off for good, then admit the new one.`,
		Example:           "  lith nodes admit n3\n  lith nodes admit n3 --yes",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: first(completeNodes(&f)),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.open()
			if err != nil {
				return err
			}
			return t.admit(cmd.Context(), cmd.OutOrStdout(), args[0], func(question string) error {
				return confirm(cmd.InOrStdin(), cmd.OutOrStdout(), yes, question)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// confirm asks on a terminal; elsewhere --yes has to say it.
func confirm(in io.Reader, out io.Writer, yes bool, question string) error {
	if yes {
		return nil
	}
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return errors.New("nobody can be asked here: say --yes when it is so. " + question)
	}
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(line), "y") {
		return errors.New("nothing was changed")
	}
	return nil
}

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

// admit tells every node that can be reached: the leader writes it into the state, and
// without one it counts in the next attempt to found.
func (t *target) admit(ctx context.Context, w io.Writer, master string, ask func(question string) error) error {
	all := t.reports(ctx)
	var waiting []node.Held
	for _, h := range heldBy(all) {
		if h.Master == master {
			waiting = append(waiting, h)
		}
	}
	switch {
	case len(waiting) == 0:
		return fmt.Errorf("no machine waits under the name %s (%s): `lith status%s` says who does", master, heardFrom(all), t.at())
	case len(waiting) > 1:
		return fmt.Errorf("%d machines wait under the name %s (hardware %.12s and %.12s): switch off all but the one that is meant", len(waiting), master, waiting[0].Hardware, waiting[1].Hardware)
	case waiting[0].Hardware == "":
		return fmt.Errorf("the machine that waits under the name %s says nothing of its hardware, so it cannot be admitted: its noded may be too old", master)
	}
	h := waiting[0]
	if err := ask(fmt.Sprintf("Is the machine that was %s (hardware %.12s) off for good, and may hardware %.12s take its place?", master, h.Known, h.Hardware)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	told := 0
	var failed []error
	for _, r := range all {
		if r.err != nil || r.name == master { // what a machine hears of itself counts for nothing
			continue
		}
		if err := r.client.Admit(ctx, master, h.Hardware); err != nil {
			failed = append(failed, fmt.Errorf("node %s: %w", r.name, err))
			continue
		}
		told++
	}
	if told == 0 {
		return fmt.Errorf("no node took the word: %w", onePerCause(failed))
	}
	fmt.Fprintf(w, "%s is admitted with hardware %.12s: %s told. It votes once it has caught up (`lith status%s`).\n", master, h.Hardware, plural(told, "node was", "nodes were"), t.at())
	return nil
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
