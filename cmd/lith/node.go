package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mesolith/mesolith/api/node"
)

// nodeCommand asks one machine's own side, which answers without any cluster. Its verbs
// come after the node's name, as in `lith node n1 dmesg`.
func nodeCommand() *cobra.Command {
	var f targetFlags
	var flags nodeFlags
	cmd := &cobra.Command{
		Use: "node NAME VERB", Short: "Ask one machine: dmesg, logs PROGRAM, health, inventory, services, memory, reboot",
		Long: `Ask one machine's own side, which answers when the cluster does not:

  dmesg          the kernel's messages since boot
  logs PROGRAM   what clusterd, isolated or noded has logged (-f: and logs); logs crash
                 is what the kernel said last before it crashed
  health         what the node thinks of itself, and how its last boot ended
  inventory      processors, memory, cards and disks
  services       the programs that init keeps running
  memory         what each of them holds, and all tasks (--json: in bytes)
  reboot         end its tasks in order and boot again

NAME is a node of the cluster's directory, or an address when there is none.`,
		Example: "  lith node n1 dmesg\n  lith node n1 logs clusterd -f\n  lith node n2 reboot",
		Args:    nodeArgs,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			return completeNode(&f, cmd, args, begun)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.open()
			if err != nil {
				return err
			}
			base, err := t.machine(args[0])
			if err != nil {
				return err
			}
			return t.askMachine(cmd.Context(), cmd.OutOrStdout(), args[0], base, args[1:], flags)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&flags.follow, "follow", "f", false, "with logs: go on until interrupted")
	cmd.Flags().BoolVar(&flags.asJSON, "json", false, "print JSON (health and inventory always do)")
	return cmd
}

// nodeVerbs are what may follow a node's name.
var nodeVerbs = []string{
	"dmesg\tkernel messages", "logs\tof a program", "health\twhat it thinks of itself",
	"inventory\twhat it is made of", "services\tof init", "memory\tand who holds it", "reboot\tboot again",
}

// nodePrograms are the logs that a node keeps.
var nodePrograms = []string{"clusterd", "isolated", "noded", "crash"}

func nodeArgs(_ *cobra.Command, args []string) error {
	switch {
	case len(args) < 2:
		return errors.New("write `lith node NAME dmesg`, or logs PROGRAM, health, inventory, services, memory or reboot in its place")
	case !slices.ContainsFunc(nodeVerbs, func(v string) bool { return strings.HasPrefix(v, args[1]+"\t") }):
		return fmt.Errorf("%q is nothing that a node is asked: it is dmesg, logs PROGRAM, health, inventory, services, memory or reboot", args[1])
	case args[1] == "logs" && len(args) != 3:
		return fmt.Errorf("name one program: `lith node %s logs PROGRAM` with one of %s", args[0], strings.Join(nodePrograms, ", "))
	case args[1] != "logs" && len(args) > 2:
		return fmt.Errorf("%q takes nothing behind it, but here stands %q", args[1], args[2])
	}
	return nil
}

func completeNode(f *targetFlags, cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	var words []string
	switch {
	case len(args) == 0:
		return completeNodes(f)(cmd, nil, begun)
	case len(args) == 1:
		words = nodeVerbs
	case len(args) == 2 && args[1] == "logs":
		words = nodePrograms
	}
	var out []string
	for _, w := range words {
		if strings.HasPrefix(w, begun) {
			out = append(out, w)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// nodeFlags are those that some verbs take.
type nodeFlags struct{ follow, asJSON bool }

// askMachine carries out one verb.
func (t *target) askMachine(ctx context.Context, w io.Writer, name, base string, verb []string, f nodeFlags) error {
	c := &node.Client{Base: base, HTTP: t.http}
	var err error
	switch verb[0] {
	case "dmesg":
		err = pour(w)(c.Dmesg(ctx))
	case "logs":
		err = pour(w)(c.Logs(ctx, verb[1], f.follow))
	default:
		err = askShort(ctx, w, c, name, verb[0], f)
	}
	switch {
	case err == nil, f.follow && ctx.Err() != nil: // an interrupt is how following ends
		return nil
	case errors.Is(err, node.ErrRefused):
		return fmt.Errorf("node %s: %w", name, err)
	}
	return fmt.Errorf("node %s: %w (its console may say why: `lith up` keeps it under %s)", name, err, t.dir)
}

// askShort asks what is answered at once.
func askShort(ctx context.Context, w io.Writer, c *node.Client, name, verb string, f nodeFlags) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	switch verb {
	case "health":
		return showJSON(w)(anyOf(c.Health(ctx)))
	case "inventory":
		return showJSON(w)(anyOf(c.Inventory(ctx)))
	case "services":
		list, err := c.Services(ctx)
		if err != nil || f.asJSON {
			return showJSON(w)(append([]node.Service{}, list...), err)
		}
		rows := make([][]string, 0, len(list))
		for _, s := range list {
			rows = append(rows, []string{s.Name, s.State, fmt.Sprint(s.PID), fmt.Sprint(s.Restarts), s.LastExit, s.Since.UTC().Format(time.RFC3339)})
		}
		return printTable(w, []string{"SERVICE", "STATE", "PID", "RESTARTS", "LAST EXIT", "SINCE"}, rows)
	case "memory":
		m, err := c.Memory(ctx)
		if err != nil || f.asJSON {
			return showJSON(w)(m, err)
		}
		return showMemory(w, m)
	case "reboot":
		if err := c.Reboot(ctx, "lith node "+name+" reboot"); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "node %s reboots\n", name)
		return err
	}
	return fmt.Errorf("%q is nothing that a node is asked", verb)
}

// showMemory writes who holds what of a machine's memory.
func showMemory(w io.Writer, m node.Memory) error {
	mib := func(bytes uint64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
	var rows [][]string
	for _, g := range m.Groups {
		most := "all"
		if g.MaxBytes > 0 {
			most = mib(g.MaxBytes)
		}
		rows = append(rows, []string{
			g.Name, fmt.Sprint(g.Processes), mib(g.PSSBytes), mib(g.AnonymousBytes), mib(g.ResidentBytes),
			mib(g.KeptBytes), most, fmt.Sprint(g.HighestScore), fmt.Sprint(g.OOMKills),
		})
	}
	if err := printTable(w, []string{"PROGRAM", "PROCESSES", "PSS", "ANONYMOUS", "RESIDENT", "KEPT", "MAY HAVE", "OOM SCORE", "OOM KILLS"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s of %s are free for programs\n", mib(m.AvailableBytes), mib(m.TotalBytes))
	return err
}

// pour copies a text to the end.
func pour(w io.Writer) func(io.ReadCloser, error) error {
	return func(r io.ReadCloser, err error) error {
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(w, r)
		return err
	}
}

func showJSON(w io.Writer) func(any, error) error {
	return func(value any, err error) error {
		if err != nil {
			return err
		}
		return printJSON(w, value)
	}
}

func anyOf[T any](value T, err error) (any, error) { return value, err }
