// Lith is the operator's tool: it builds the image, boots clusters of virtual machines,
// and operates what runs. One file a command; main only puts them together, so that each
// can be read by itself. It holds no state but the directory of a cluster, and everything
// it does to a cluster goes through the public API.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "lith", Short: "Operate Mesolith clusters", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(imageCommand(), upCommand(), downCommand(), superviseCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lith:", err)
		os.Exit(1)
	}
}
