package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mesolith/mesolith/internal/nodedoc"
	clusterfile "github.com/mesolith/mesolith/provision/cluster"
	"github.com/mesolith/mesolith/provision/pki"
)

// renewBefore is how long before its end the issuing key is made anew.
const renewBefore = 30 * 24 * time.Hour

// planView is what `lith plan --json` prints.
type planView struct {
	Cluster  string         `json:"cluster"`
	Masters  []string       `json:"masters"`
	Warnings []string       `json:"warnings"`
	Nodes    []planNodeView `json:"nodes"`
}

type planNodeView struct {
	Name   string              `json:"name"`
	Master bool                `json:"master"`
	Region string              `json:"region,omitempty"`
	Zone   string              `json:"zone,omitempty"`
	Values []clusterfile.Value `json:"values"`
}

func planCommand() *cobra.Command {
	var file, out string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "plan", Short: "Check the cluster file and show what each node gets, and why",
		Long: `Check the cluster file and show what each node gets, each setting with its origin:
built in, the defaults, a group, or the node itself. Mistakes are told as file:line:column
with what to write instead; nothing is changed then.

With -o DIR also write what the machines' media carry, a folder a node, and the operator's
certificate, with which the other commands reach the cluster (--cluster DIR --api URL). Boot
credentials that are missing are made, and the issuing key when it ends within 30 days.`,
		Example: "  lith plan\n  lith plan -f rack7.yaml --json\n  lith plan -f rack7.yaml -o media",
		Args:    noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: `lith init` makes one, -f names another", err)
			}
			if err != nil {
				return err
			}
			p, err := clusterfile.Parse(file, text)
			if err != nil {
				return fmt.Errorf("the cluster file is not usable, nothing was changed\n%w", err)
			}
			for _, w := range p.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), w)
			}
			if out != "" {
				return writeMedia(cmd.ErrOrStderr(), p, besides(file, p.File.SecretsPath), out, time.Now())
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), viewPlan(p))
			}
			return p.Print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "cluster.yaml", "cluster file")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write the files of each machine's medium into this directory")
	completeFiles(cmd, []string{"output"}, map[string]string{"file": "yaml"})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func viewPlan(p *clusterfile.Plan) planView {
	v := planView{Cluster: p.File.Cluster, Masters: p.Masters, Warnings: []string{}}
	for _, w := range p.Warnings {
		v.Warnings = append(v.Warnings, w.String())
	}
	for _, n := range p.Nodes {
		v.Nodes = append(v.Nodes, planNodeView{Name: n.Name, Master: slices.Contains(p.Masters, n.Name), Region: n.Region, Zone: n.Zone, Values: n.Values()})
	}
	return v
}

// clusterFile is the signed cluster document in a directory of media.
const clusterFile = "cluster.json"

// writeMedia writes each machine's files. Everything is made before anything is written.
func writeMedia(w io.Writer, p *clusterfile.Plan, secretsPath, dir string, now time.Time) error {
	secrets, err := pki.Load(secretsPath)
	if err != nil {
		return err
	}
	changed, err := completeSecrets(secrets, p.Names(), now)
	if err != nil {
		return err
	}
	anchor, err := secrets.Anchor()
	if err != nil {
		return err
	}
	previous, err := readPrevious(filepath.Join(dir, clusterFile), anchor)
	if err != nil {
		return err
	}
	bundle, err := clusterfile.Render(p, secrets, clusterfile.Options{Now: now, Previous: previous})
	if err != nil {
		return err
	}
	files, err := mediaFiles(secrets, bundle, now)
	if err != nil {
		return err
	}
	if changed {
		if err := secrets.Save(secretsPath); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(files) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := pki.WriteFile(path, files[name], 0o600); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, "revision %d for %s in %s (masters %s); node.key and issuer.json in it are secret\n",
		bundle.Document.Revision, plural(len(p.Nodes), "node", "nodes"), dir, strings.Join(bundle.Document.Masters.Names, ", "))
	return err
}

// completeSecrets makes the boot credentials that are missing and a new issuing key when
// the present one ends soon.
func completeSecrets(s *pki.Secrets, names []string, now time.Time) (changed bool, err error) {
	for _, name := range names {
		made, err := s.EnsureNode(name)
		if err != nil {
			return false, err
		}
		changed = changed || made
	}
	ends, err := s.IssuingEnds()
	if err != nil {
		return false, err
	}
	if now.Before(ends.Add(-renewBefore)) {
		return changed, nil
	}
	return true, s.RenewIssuing(now)
}

// readPrevious gives the document that was written there before, nil when there is none.
func readPrevious(path string, a nodedoc.Anchor) (*nodedoc.ClusterDocument, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	doc, err := nodedoc.OpenCluster(raw, a)
	if err != nil {
		return nil, fmt.Errorf("%s is not this cluster's, name another directory with -o: %w", path, err)
	}
	return &doc, nil
}

// mediaFiles gives everything by its path in the directory.
func mediaFiles(s *pki.Secrets, b *clusterfile.Bundle, now time.Time) (map[string][]byte, error) {
	secrets, err := s.IssuerSecrets()
	if err != nil {
		return nil, err
	}
	issuer, err := pki.OpenIssuer(secrets, b.Anchor)
	if err != nil {
		return nil, err
	}
	cert, key, err := issuer.IssueOperator("operator", nodedoc.RoleAdmin, now, pki.OperatorLifetime)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		anchorFile: b.AnchorJSON, clusterFile: b.Cluster, operatorCert: []byte(cert), operatorKey: []byte(key),
	}
	for name, n := range b.Nodes {
		at := func(file string) string { return filepath.Join("nodes", name, file) }
		files[at(anchorFile)], files[at("node.json")], files[at("node.key")] = b.AnchorJSON, n.Document, n.Key
		if n.Master {
			files[at(clusterFile)], files[at("issuer.json")] = b.Cluster, b.Issuer
		}
	}
	return files, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
