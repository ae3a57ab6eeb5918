// Package source finds the documents that say who a node is: on QEMU's fw_cfg, by a URL
// on the kernel's command line, or on a medium labelled MESOLITH, in that order.
//
// Invariant: the first source with a document that verifies against the anchor wins, and
// every other one is listed with the reason why it was not used; nothing that a source
// says is believed before its signature is verified. Every file is read with a bound.
//
// Foreign file systems are read by Go code and never mounted. It does not wait or try
// again (noded does) and brings no network up.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/provision/node/identity"
)

// Names of the files that a medium carries.
const (
	anchorFile  = "anchor.json"
	nodeFile    = "node.json"
	keyFile     = "node.key"
	clusterFile = "cluster.json"
	issuerFile  = "issuer.json"
)

// maxKeyFile bounds node.key, in bytes.
const maxKeyFile = 4096

// Found is what a source gave, verified.
type Found struct {
	Source     string // for people: fw_cfg, the URL, the medium
	Anchor     nodedoc.Anchor
	AnchorFrom string
	Document   nodedoc.Document
	Node       []byte                 // the signed node document as it came
	BootKey    []byte                 // PEM, of the source or of another medium; empty: none has one
	Cluster    []byte                 // masters: the signed cluster document
	Issuer     *nodedoc.IssuerSecrets // masters: the issuing key
}

// Tried is a source that was not used, and why.
type Tried struct {
	Source string
	Why    string
}

// String prints it as the console shows it.
func (t Tried) String() string { return t.Source + ": " + t.Why }

// Config says where to look.
type Config struct {
	Root        string // "/" on a node
	CommandLine string // the kernel's
	Machine     identity.Machine
	HTTP        *http.Client
	Network     bool // an address is there: URLs may be asked
}

// ErrNone says that no source had a valid document.
var ErrNone = errors.New("no valid node document found")

// Search tries all sources in their order.
func Search(ctx context.Context, cfg Config) (Found, []Tried, error) {
	var tried []Tried
	for _, open := range []func(context.Context, Config) ([]medium, []Tried){openFirmware, openURL, openDisks} {
		media, without := open(ctx, cfg)
		tried = append(tried, without...)
		for _, m := range media {
			found, err := m.load(cfg)
			if err == nil {
				tried = append(tried, found.keyElsewhere(ctx, cfg, m.name)...)
				return found, tried, nil
			}
			tried = append(tried, Tried{m.name, err.Error()})
		}
	}
	return Found{}, tried, ErrNone
}

// keyElsewhere looks for the boot key on this machine's own media when the document came
// without one, as it does by URL: what a server hands out is public, a key is not.
func (f *Found) keyElsewhere(ctx context.Context, cfg Config, not string) (tried []Tried) {
	if len(f.BootKey) > 0 {
		return nil
	}
	for _, open := range []func(context.Context, Config) ([]medium, []Tried){openFirmware, openDisks} {
		media, _ := open(ctx, cfg)
		for _, m := range media {
			if m.name == not {
				continue
			}
			key, err := m.bootKey()
			if err == nil && len(key) > 0 {
				f.BootKey = key
				return tried
			}
			if err != nil {
				tried = append(tried, Tried{m.name, err.Error()})
			}
		}
	}
	return tried
}

// medium is a place that holds files by the names above.
type medium struct {
	name string
	read func(file string, most int64) ([]byte, error)
}

// load reads and verifies what a medium holds.
func (m medium) load(cfg Config) (Found, error) {
	f := Found{Source: m.name}
	raw, err := m.read(nodeFile, nodedoc.MaxNodeDocument)
	if err != nil {
		return Found{}, fmt.Errorf("%s: %w", nodeFile, err)
	}
	if f.Anchor, f.AnchorFrom, err = findAnchor(cfg, m); err != nil {
		return Found{}, err
	}
	f.Node = raw
	if f.Document, err = nodedoc.Open(raw, f.Anchor); err != nil {
		return Found{}, fmt.Errorf("%s (anchor from %s): %w", nodeFile, f.AnchorFrom, err)
	}
	if f.BootKey, err = m.bootKey(); err != nil {
		return Found{}, err
	}
	if !f.Document.Masters.Has(f.Document.Name) {
		return f, nil
	}
	return f, m.loadMaster(&f)
}

// bootKey reads the key by which this boot proves which node it is; nil: there is none.
func (m medium) bootKey() ([]byte, error) {
	key, err := m.optional(keyFile, maxKeyFile)
	if err != nil || len(key) == 0 {
		return nil, err
	}
	if _, err := nodecert.ParseBootKey(key); err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	return key, nil
}

func (m medium) loadMaster(f *Found) error {
	var err error
	if f.Cluster, err = m.optional(clusterFile, nodedoc.MaxClusterDocument); err != nil {
		return err
	}
	if len(f.Cluster) > 0 {
		if _, err := nodedoc.OpenCluster(f.Cluster, f.Anchor); err != nil {
			return fmt.Errorf("%s: %w", clusterFile, err)
		}
	}
	raw, err := m.optional(issuerFile, nodedoc.MaxIssuerSecrets)
	if err != nil || len(raw) == 0 {
		return err
	}
	secrets, err := nodedoc.ParseIssuerSecrets(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", issuerFile, err)
	}
	f.Issuer = &secrets
	return nil
}

// optional reads a file that need not be there.
func (m medium) optional(file string, most int64) ([]byte, error) {
	raw, err := m.read(file, most)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return raw, nil
}

// Argument gives the value of a key=value word of the kernel's command line.
func Argument(commandLine, key string) (string, bool) {
	for _, word := range strings.Fields(commandLine) {
		if value, ok := strings.CutPrefix(word, key+"="); ok {
			return value, true
		}
	}
	return "", false
}
