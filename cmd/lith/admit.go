package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mesolith/mesolith/api/node"
)

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
		Example: "  lith nodes admit n3\n  lith nodes admit n3 --yes",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("name one master: `%s MASTER`; `lith status` says which one waits", cmd.CommandPath())
			}
			return nil
		},
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
		if err := r.client.Admit(ctx, h); err != nil {
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
