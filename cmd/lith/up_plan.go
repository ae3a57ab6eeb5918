package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	clusterfile "github.com/mesolith/mesolith/provision/cluster"
	"github.com/mesolith/mesolith/provision/pki"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// Files that a generated cluster has in its directory.
const (
	generatedName = "demo"
	generatedFile = "cluster.yaml"
	secretsFile   = "cluster.secrets.yaml"
)

// planCluster reads or generates the cluster file, makes its secrets if there are none,
// and leaves what the other commands need in the cluster's directory.
func planCluster(o upOptions, accel string, out io.Writer) (clusterPlan, error) {
	path := o.file
	if path == "" {
		path = filepath.Join(o.dir, generatedFile)
		text, err := cluster.GeneratedFile(generatedName, o.nodes)
		if err != nil {
			return clusterPlan{}, err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return clusterPlan{}, err
		}
		fmt.Fprintf(out, "generated %s with api: {plaintext: true, anonymous: framework}:\n"+
			"the API takes plain HTTP and frameworks without credentials, on this host's loopback addresses only\n", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return clusterPlan{}, fmt.Errorf("read the cluster file: %w", err)
	}
	p, err := clusterfile.Parse(path, text)
	if err != nil {
		return clusterPlan{}, err
	}
	for _, w := range p.Warnings {
		fmt.Fprintln(out, w)
	}
	secrets, err := secretsOf(p, path, o.dir)
	if err != nil {
		return clusterPlan{}, err
	}
	r, err := cluster.Render(p, secrets, accel, time.Now())
	if err != nil {
		return clusterPlan{}, err
	}
	for name, body := range map[string][]byte{
		operatorCert: []byte(r.OperatorCert), operatorKey: []byte(r.OperatorKey), anchorFile: r.AnchorJSON,
	} {
		if err := os.WriteFile(filepath.Join(o.dir, name), body, 0o600); err != nil {
			return clusterPlan{}, err
		}
	}
	return clusterPlan{Name: r.Name, Nodes: r.Nodes, Subnet: r.Subnet, Plaintext: r.Plaintext}, nil
}

// secretsOf finds the secrets where the file says; without any the cluster's directory
// gets its own, because a cluster on one host may be thrown away.
func secretsOf(p *clusterfile.Plan, file, dir string) (*pki.Secrets, error) {
	path := p.File.SecretsPath
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(file), path)
	}
	secrets, err := pki.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = filepath.Join(dir, secretsFile)
		secrets, err = pki.Load(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		secrets, err = pki.NewCluster(p.File.Cluster, p.Names(), time.Now())
		if err != nil {
			return nil, err
		}
		return secrets, secrets.Create(path)
	}
	if err != nil {
		return nil, err
	}
	added := false
	for _, name := range p.Names() {
		made, err := secrets.EnsureNode(name)
		if err != nil {
			return nil, err
		}
		added = added || made
	}
	if !added {
		return secrets, nil
	}
	return secrets, secrets.Save(path)
}
