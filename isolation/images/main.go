package images

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/mesolith/mesolith/internal/fetchplan"
)

// Main is `clusterd pull`: it pulls one image, or with --fetch as its first argument carries
// out the plan on its standard input, and returns the exit status. Its last line on stderr
// is, on failure, the reason for people.
func Main(args []string, stdin io.Reader, stderr io.Writer) int {
	do := mainErr
	if len(args) > 0 && args[0] == "--fetch" {
		do = fetchErr
	}
	switch err := do(args, stdin, stderr); {
	case err == nil:
		return 0
	case errors.Is(err, errTooMuch):
		fmt.Fprintln(stderr, oneLine(err))
		return fetchplan.TooMuch
	default:
		fmt.Fprintln(stderr, oneLine(err))
		return 1
	}
}

func mainErr(args []string, stdin io.Reader, stderr io.Writer) error {
	flags := flag.NewFlagSet("pull", flag.ContinueOnError)
	flags.SetOutput(stderr)
	c := Config{Mirrors: map[string][]string{}, Log: slog.New(slog.NewJSONHandler(stderr, nil))}
	flags.StringVar(&c.Store, "store", "", "directory of the image store")
	flags.StringVar(&c.Reference, "image", "", "image to pull; \"base\" is the built-in root file system")
	flags.StringVar(&c.Base, "base", "", "archive of the built-in root file system")
	flags.StringVar(&c.Certificates, "certificates", "/"+certificatesInTask, "CA certificates that the built-in root file system gets")
	flags.BoolVar(&c.Offline, "offline", false, "ask mirrors only")
	flags.StringVar(&c.Platform, "platform", "", "os/arch; default: this machine's")
	flags.Bool("fetch", false, "as the first argument: carry out the plan of files on standard input (the keeper of containers does)")
	auth := flags.Bool("auth-stdin", false, "read a docker config.json from standard input")
	flags.Func("mirror", "HOST=URL, repeatable, in order", func(v string) error {
		host, endpoint, ok := strings.Cut(v, "=")
		if !ok {
			return errors.New("write HOST=URL")
		}
		c.Mirrors[host] = append(c.Mirrors[host], endpoint)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if c.Store == "" || c.Reference == "" {
		return errors.New("pull: --store and --image are needed")
	}
	if *auth {
		raw, err := io.ReadAll(io.LimitReader(stdin, maxDocument+1))
		if err != nil {
			return fmt.Errorf("read docker config: %w", err)
		}
		c.Auth = raw
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	_, err := Pull(ctx, c)
	return err
}

// oneLine keeps a message of several lines together.
func oneLine(err error) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
}
