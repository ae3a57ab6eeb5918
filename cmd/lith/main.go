// Lith is the operator's tool: it builds the image, boots clusters of virtual machines,
// and operates what runs. One file a command; main only puts them together, so that each
// can be read by itself. It holds no state but the directory of a cluster, and everything
// it does to a cluster goes through the public API.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// exitError ends the program with a code of its own; everything was said already.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	os.Exit(exitCode(ctx, os.Stderr, rootCommand().ExecuteContext(ctx)))
}

// exitInterrupted is what shells give for a program that an interrupt has ended.
const exitInterrupted = exitSignal + int(syscall.SIGINT)

func exitCode(ctx context.Context, stderr io.Writer, err error) int {
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "lith: interrupted")
		return exitInterrupted
	}
	fmt.Fprintln(stderr, "lith:", err)
	return 1
}

// noArgs refuses arguments in words; cobra's own would call them unknown commands.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("`%s` takes no arguments, but here stands %q: see `%s --help`", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

// nothingToComplete is for commands without arguments, where shells would offer files.
func nothingToComplete(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "lith", Short: "Operate Mesolith clusters",
		Long: `Operate Mesolith clusters: build the image, boot a cluster in QEMU, look at it, run
tasks on it. Commands find a cluster by its directory (--cluster DIR, $LITH_CLUSTER,
./.mesolith) or by the URL of any node's API (--api URL, $LITH_API).`,
		Example:      "  lith up\n  lith status\n  lith run base -- echo hello\n  lith down",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(
		imageCommand(), upCommand(), downCommand(), superviseCommand(),
		initCommand(), planCommand(),
		statusCommand(), doctorCommand(), nodesCommand(), nodeCommand(),
		runCommand(), tasksCommand(), logsCommand(), killCommand(),
		versionCommand(),
	)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: see `%s --help`", err, cmd.CommandPath())
	})
	return root
}
