package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// nodeCommand asks one machine's own side, which answers without any cluster. Its verbs
// come after the node's name, as in `lith node n1 dmesg`.
func nodeCommand() *cobra.Command {
	var f targetFlags
	var follow bool
	cmd := &cobra.Command{
		Use: "node NAME VERB", Short: "Ask one machine: dmesg, logs PROGRAM, health, reboot",
		Long: `Ask one machine's own side, which answers when the cluster does not:

  dmesg          the kernel's messages since boot
  logs PROGRAM   what clusterd, isolated, noded or init has logged (-f: and logs)
  health         what the node thinks of itself
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
			return t.askMachine(cmd.Context(), cmd.OutOrStdout(), args[0], base, args[1:], follow)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "with logs: go on until interrupted")
	return cmd
}

// nodeVerbs are what may follow a node's name.
var nodeVerbs = []string{"dmesg\tkernel messages", "logs\tof a program", "health\twhat it thinks of itself", "reboot\tboot again"}

// nodePrograms are the programs whose logs a node keeps.
var nodePrograms = []string{"clusterd", "isolated", "noded", "init"}

func nodeArgs(_ *cobra.Command, args []string) error {
	switch {
	case len(args) < 2:
		return errors.New("write `lith node NAME dmesg`, or logs PROGRAM, health or reboot in its place")
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

func (t *target) askMachine(ctx context.Context, w io.Writer, name, base string, verb []string, follow bool) error {
	method, path := http.MethodGet, ""
	switch verb[0] {
	case "dmesg":
		path = "/v1/dmesg"
	case "health":
		path = "/v1/health"
	case "logs":
		query := url.Values{"program": {verb[1]}}
		if follow {
			query.Set("follow", "true")
		}
		path = "/v1/logs?" + query.Encode()
	case "reboot":
		method, path = http.MethodPost, "/v1/reboot"
	default:
		return fmt.Errorf("%q is nothing that a node is asked: it is dmesg, logs PROGRAM, health or reboot", verb[0])
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, nil)
	if err != nil {
		return err
	}
	resp, err := t.http.Do(req)
	if err != nil {
		return fmt.Errorf("node %s: %w (its console may say why: `lith up` keeps it under %s)", name, err, t.dir)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		if err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
		return fmt.Errorf("node %s: %w", name, &refusedError{url: base + path, code: resp.StatusCode, text: string(text)})
	}
	if verb[0] == "reboot" {
		_, err = fmt.Fprintf(w, "node %s reboots\n", name)
		return err
	}
	if _, err := io.Copy(w, resp.Body); err != nil && ctx.Err() == nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	return nil
}
