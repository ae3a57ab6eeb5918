// Command clusterd is the cluster manager of a node: always its agent, also a master when
// elected. The same file is noded (the machine's own side) when it is called by that
// name, and `clusterd pull` pulls one image.
//
// This package only wires: it reads flags, opens what others handed over, hands the rooms
// to one another and waits. On a node (--node) it learns everything from noded; with
// --dev it is a cluster of processes for authors of frameworks.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/isolation/images"
	"google.golang.org/protobuf/proto"
)

const usage = `clusterd, the cluster manager of Mesolith

  clusterd --dev --dir DIR   a cluster of processes on this machine (--dev --help says more)
  clusterd --node            on a node of the image, started by init
  clusterd pull --help       pull one image into a store
  clusterd --version
`

// logLevel is how much this program logs; operators raise it for a time.
var logLevel slog.LevelVar

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	if filepath.Base(args[0]) == "noded" {
		return runNoded(args[1:])
	}
	if len(args) > 1 && args[1] == "pull" {
		return images.Main(args[2:], os.Stdin, os.Stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	switch {
	case slices.Contains(args[1:], "--version"):
		fmt.Println(gitTag(), "speaking Mesos", leader.Version)
	case slices.Contains(args[1:], "--node"):
		err = runNode(ctx, slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: &logLevel})))
	case slices.Contains(args[1:], "--dev"), slices.Contains(args[1:], "-dev"):
		err = runDev(ctx, args[1:], os.Stderr)
	default:
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "clusterd:", err)
		return 1
	}
	return 0
}

// gitTag is our own version; the protocol's is leader.Version.
func gitTag() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return "mesolith " + info.Main.Version
	}
	return "mesolith (devel)"
}

func versionInfo() *mesosv1.VersionInfo {
	return &mesosv1.VersionInfo{Version: proto.String(leader.Version), GitTag: proto.String(gitTag())}
}
