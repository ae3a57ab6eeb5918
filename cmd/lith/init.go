package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	clusterfile "github.com/mesolith/mesolith/provision/cluster"
	"github.com/mesolith/mesolith/provision/pki"
)

// plainClients is what a person must know before he keeps the API closed.
const plainClients = `
The API takes TLS with credentials only. Most v1 libraries have no way to be given a CA:
mesos-go's example programs (msh among them), mesos-compose, pymesos and mesos-rxjava speak
plain HTTP as they come. For those, write the networks they call from into the file:

  api: { plaintext: [10.7.0.0/24] }
`

func initCommand() *cobra.Command {
	var file string
	var masters int
	var macs []string
	cmd := &cobra.Command{
		Use: "init NAME --mac MAC...", Short: "Make a new cluster file and its secrets",
		Long: `Make a new cluster file and, beside it, the secrets of that cluster: the owner's key,
the root CA, the issuing key, a boot credential for each machine and the secrets of two API
principals. Neither file may exist yet. Keep the secrets safe: without them no node can be
added and no changed file signed.`,
		Example: "  lith init rack7 --mac 52:54:00:00:00:01 --mac 52:54:00:00:00:02 --mac 52:54:00:00:00:03",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("name the cluster: `lith init NAME --mac MAC`")
			}
			return nil
		},
		ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("masters") && len(macs) < 3 {
				masters = 1
			}
			return initCluster(cmd.OutOrStdout(), file, args[0], masters, macs, time.Now())
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "cluster.yaml", "cluster file to make")
	completeFiles(cmd, nil, map[string]string{"file": "yaml"})
	cmd.Flags().IntVar(&masters, "masters", 3, "how many nodes vote: 1, 3 or 5 (1 with fewer than 3 machines)")
	cmd.Flags().StringArrayVar(&macs, "mac", nil, "MAC address of a machine (again for more)")
	return cmd
}

func initCluster(w io.Writer, file, name string, masters int, macs []string, now time.Time) error {
	if len(macs) == 0 {
		return errors.New("no machine named: give each one's MAC with --mac, as it is on its network card or in its firmware")
	}
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists already: edit it, or name another with -f", file)
	}
	text := newFile(name, masters, macs)
	p, err := clusterfile.Parse(file, []byte(text))
	if err != nil {
		return fmt.Errorf("nothing was made, since the file would be wrong:\n%w\n\n%s", err, numbered(text))
	}
	secrets, err := pki.NewCluster(name, p.Names(), now)
	if err != nil {
		return err
	}
	secretsPath := besides(file, p.File.SecretsPath)
	if err := secrets.Create(secretsPath); err != nil {
		return err
	}
	if err := pki.WriteFile(file, []byte(text), 0o644); err != nil {
		return errors.Join(err, os.Remove(secretsPath))
	}
	fmt.Fprintf(w, "made %s and %s (0600; keep it safe: it owns the cluster)\n%s\nNext: `lith plan -f %s` shows what each machine gets, `lith up -f %s` boots it in QEMU.\n",
		file, secretsPath, plainClients, file, file)
	return nil
}

func newFile(name string, masters int, macs []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The cluster %s. `lith plan` shows what each machine gets and why.\n", name)
	fmt.Fprintf(&b, "apiVersion: v1\ncluster: %s\nmasters: %d\nnodes:\n", name, masters)
	for _, mac := range macs {
		fmt.Fprintf(&b, "  - mac: %q\n", mac)
	}
	return b.String()
}

func numbered(text string) string {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		fmt.Fprintf(&b, "%5d  %s\n", i+1, line)
	}
	return b.String()
}

// besides resolves a path of a cluster file, which is relative to the file.
func besides(file, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), path)
}
