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

// draft is a cluster that is worked out and of which nothing is written yet.
type draft struct {
	plan      clusterPlan
	file      string // where the cluster file is, or will be
	generated string // its text, where nobody gave one
	secrets   *pki.Secrets
	secretsAt string
	unsaved   bool // the secrets are new, or have new parts
	rendered  cluster.Rendered
	warnings  []clusterfile.Problem
}

// draftCluster reads or generates the cluster file and makes machines of it. It changes
// nothing.
func draftCluster(o upOptions, accel string) (draft, error) {
	d := draft{file: o.file}
	var text []byte
	var err error
	if o.file == "" {
		d.file = filepath.Join(o.dir, generatedFile)
		d.generated, err = cluster.GeneratedFile(generatedName, o.nodes)
		text = []byte(d.generated)
	} else if text, err = os.ReadFile(o.file); err != nil {
		err = fmt.Errorf("read the cluster file: %w", err)
	}
	if err != nil {
		return d, err
	}
	p, err := clusterfile.Parse(d.file, text)
	if err != nil {
		return d, fmt.Errorf("the cluster file is not usable, nothing was started\n%w", err)
	}
	d.warnings = p.Warnings
	if err := d.findSecrets(p, o.dir); err != nil {
		return d, err
	}
	if d.rendered, err = cluster.Render(p, d.secrets, accel, time.Now()); err != nil {
		return d, err
	}
	r := d.rendered
	d.plan = clusterPlan{Name: r.Name, Nodes: r.Nodes, Subnet: r.Subnet, Plaintext: r.Plaintext}
	return d, nil
}

// findSecrets finds the secrets where the file says; without any the cluster's directory
// gets its own, because a cluster on one host may be thrown away.
func (d *draft) findSecrets(p *clusterfile.Plan, dir string) (err error) {
	d.secretsAt = besides(d.file, p.File.SecretsPath)
	d.secrets, err = pki.Load(d.secretsAt)
	if errors.Is(err, fs.ErrNotExist) {
		d.secretsAt = filepath.Join(dir, secretsFile)
		d.secrets, err = pki.Load(d.secretsAt)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && d.secretsAt == filepath.Join(dir, secretsFile) && d.secrets.Cluster != p.File.Cluster {
		d.unsaved = true
		d.secrets, err = pki.NewCluster(p.File.Cluster, p.Names(), time.Now())
	}
	if err != nil {
		return err
	}
	completed, err := completeSecrets(d.secrets, p.Names(), time.Now())
	d.unsaved = d.unsaved || completed
	return err
}

// write leaves what the supervisor and the other commands need in the cluster's
// directory. The plan is the first file: it says whose directory this is.
func (d *draft) write(dir string, plan clusterPlan, out io.Writer) error {
	if err := writeJSON(filepath.Join(dir, planFile), plan); err != nil {
		return err
	}
	files := map[string]string{
		operatorCert: d.rendered.OperatorCert, operatorKey: d.rendered.OperatorKey, anchorFile: string(d.rendered.AnchorJSON),
	}
	if d.generated != "" {
		files[generatedFile] = d.generated
	}
	for name, body := range files {
		if err := pki.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			return err
		}
	}
	if d.unsaved {
		if err := d.secrets.Save(d.secretsAt); err != nil {
			return err
		}
	}
	if d.generated != "" {
		fmt.Fprintf(out, "generated %s with api: {plaintext: true, anonymous: framework}:\n"+
			"the API takes plain HTTP and frameworks without credentials, on this host's loopback addresses only\n", d.file)
		return nil // its warning says the same
	}
	for _, w := range d.warnings {
		fmt.Fprintln(out, w)
	}
	return nil
}
