// Package pki makes a cluster's keys and certificates: the owner's key that signs
// documents, the root CA, the issuing key that masters carry, every node's boot
// credential, and the certificates of nodes and operators.
//
// Invariant: the private half of the owner's key and of the root never leaves the
// secrets file, which is written whole or not at all and read by its owner alone
// (mode 0600); what goes to masters can issue for at most 90 days.
//
// It decides nothing about who may have a certificate: the master that issues verifies
// the boot credential and the living incarnations first. Reading and verifying
// certificates is internal/nodecert's part.
package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// maxSecretsFile bounds the secrets file, in bytes: 10,000 nodes fit.
const maxSecretsFile = 8 << 20

// Errors of the secrets file that a caller tells apart.
var (
	ErrExists = errors.New("secrets file exists already")
	ErrMode   = errors.New("secrets file can be read by others")
)

// Secrets is the content of cluster.secrets.yaml: whoever holds it owns the cluster.
type Secrets struct {
	Format    int               `yaml:"format"`
	Cluster   string            `yaml:"cluster"`
	ClusterID string            `yaml:"clusterID"`
	OwnerKey  string            `yaml:"ownerKey"` // base64 of the Ed25519 seed
	Root      KeyPair           `yaml:"root"`
	Issuing   KeyPair           `yaml:"issuing"`
	BootKeys  map[string]string `yaml:"bootKeys"` // PEM by node name
	API       []APISecret       `yaml:"api"`
}

// KeyPair is a certificate with its key, both PEM.
type KeyPair struct {
	Key  string `yaml:"key"`
	Cert string `yaml:"cert"`
}

// APISecret is a principal of the API with its secret in clear: frameworks need it.
type APISecret struct {
	Principal string `yaml:"principal"`
	Secret    string `yaml:"secret"`
	Role      string `yaml:"role"`
}

// NewCluster makes all keys of a new cluster. The names are those of its first nodes.
func NewCluster(name string, nodes []string, now time.Time) (*Secrets, error) {
	if !nodedoc.ValidName(name) {
		return nil, fmt.Errorf("cluster name %q is not a DNS label (a-z, 0-9 and dashes, at most 63)", name)
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("make cluster id: %w", err)
	}
	_, owner, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make owner key: %w", err)
	}
	s := &Secrets{
		Format: nodedoc.Format, Cluster: name, ClusterID: hex.EncodeToString(id),
		OwnerKey: base64.StdEncoding.EncodeToString(owner.Seed()), BootKeys: map[string]string{},
	}
	if s.Root, err = newRoot(name, s.ClusterID, now); err != nil {
		return nil, err
	}
	if err := s.RenewIssuing(now); err != nil {
		return nil, err
	}
	for _, node := range nodes {
		if _, err := s.EnsureNode(node); err != nil {
			return nil, err
		}
	}
	for _, role := range []string{nodedoc.RoleFramework, nodedoc.RoleReader} {
		secret, err := newSecret()
		if err != nil {
			return nil, err
		}
		s.API = append(s.API, APISecret{Principal: role, Secret: secret, Role: role})
	}
	return s, nil
}

// EnsureNode makes a node's boot credential unless it has one and reports whether it did.
func (s *Secrets) EnsureNode(name string) (made bool, err error) {
	if _, ok := s.BootKeys[name]; ok {
		return false, nil
	}
	if !nodedoc.ValidName(name) {
		return false, fmt.Errorf("node name %q is not a DNS label (a-z, 0-9 and dashes, at most 63)", name)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return false, fmt.Errorf("make boot key of %s: %w", name, err)
	}
	text, err := nodecert.EncodeBootKey(key)
	if err != nil {
		return false, err
	}
	if s.BootKeys == nil {
		s.BootKeys = map[string]string{}
	}
	s.BootKeys[name] = text
	return true, nil
}

// BootKey gives the public half of a node's boot credential.
func (s *Secrets) BootKey(name string) (ed25519.PublicKey, error) {
	text, ok := s.BootKeys[name]
	if !ok {
		return nil, fmt.Errorf("node %s has no boot key in the secrets file; `lith plan -o DIR` makes those that are missing", name)
	}
	key, err := nodecert.ParseBootKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	return key.Public().(ed25519.PublicKey), nil
}

// Owner gives the key that signs documents.
func (s *Secrets) Owner() (ed25519.PrivateKey, error) {
	seed, err := base64.StdEncoding.DecodeString(s.OwnerKey)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("ownerKey of the secrets file is not %d bytes of base64", ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// Anchor gives what a node must believe.
func (s *Secrets) Anchor() (nodedoc.Anchor, error) {
	owner, err := s.Owner()
	if err != nil {
		return nodedoc.Anchor{}, err
	}
	root, err := parseCert(s.Root.Cert)
	if err != nil {
		return nodedoc.Anchor{}, fmt.Errorf("root of the secrets file: %w", err)
	}
	a := nodedoc.Anchor{
		Format: nodedoc.Format, Cluster: s.Cluster, ClusterID: s.ClusterID,
		OwnerKey: owner.Public().(ed25519.PublicKey), CAPin: nodecert.Pin(root),
	}
	return a, a.Check()
}

// IssuerSecrets gives what the masters' media carry besides their documents.
func (s *Secrets) IssuerSecrets() (nodedoc.IssuerSecrets, error) {
	out := nodedoc.IssuerSecrets{IssuingKeyPEM: s.Issuing.Key, IssuingCertPEM: s.Issuing.Cert, CAPEM: s.Root.Cert}
	for _, a := range s.API {
		hash, err := nodedoc.HashSecret(a.Secret)
		if err != nil {
			return nodedoc.IssuerSecrets{}, fmt.Errorf("API principal %q: %w", a.Principal, err)
		}
		out.APICredentials = append(out.APICredentials, nodedoc.APICredential{Principal: a.Principal, SecretHash: hash, Role: a.Role})
	}
	return out, out.APICredentials.Validate()
}

// Load reads a secrets file; one that others can read is refused.
func Load(path string) (*Secrets, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read secrets: %w (`lith init` makes it together with the cluster file; a lost one cannot be made again)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: %w (mode %04o): run chmod 600 %s, and think about who has read it", path, ErrMode, info.Mode().Perm(), path)
	}
	if info.Size() > maxSecretsFile {
		return nil, fmt.Errorf("read secrets: %s has %d bytes, at most %d are allowed", path, info.Size(), maxSecretsFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	s, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Parse decodes the text of a secrets file and verifies that its parts fit together.
func Parse(raw []byte) (*Secrets, error) {
	if len(raw) > maxSecretsFile {
		return nil, fmt.Errorf("secrets of %d bytes, at most %d are allowed", len(raw), maxSecretsFile)
	}
	var s Secrets
	if err := yaml.NewDecoder(bytes.NewReader(raw), yaml.Strict()).Decode(&s); err != nil {
		return nil, fmt.Errorf("not a secrets file: %s", firstLine(err))
	}
	if s.Format != nodedoc.Format {
		return nil, fmt.Errorf("secrets of format %d, this program knows %d", s.Format, nodedoc.Format)
	}
	if _, err := s.Anchor(); err != nil {
		return nil, err
	}
	for name := range s.BootKeys {
		if _, err := s.BootKey(name); err != nil {
			return nil, err
		}
	}
	return &s, nil
}

const secretsHead = `# The secrets of cluster %s. Whoever has this file owns the cluster: keep it off the
# nodes, out of version control, and backed up. Without it no node can be added and no
# changed cluster file can be signed.
`

// Save writes the file whole or not at all, readable by its owner alone.
func (s *Secrets) Save(path string) error {
	body, err := yaml.MarshalWithOptions(s, yaml.UseLiteralStyleIfMultiline(true))
	if err != nil {
		return fmt.Errorf("encode secrets: %w", err)
	}
	return WriteFile(path, append([]byte(fmt.Sprintf(secretsHead, s.Cluster)), body...), 0o600)
}

// Create is Save for a file that must not exist yet.
func (s *Secrets) Create(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w; a cluster's keys cannot be made twice: move it away or name another file", path, ErrExists)
	}
	return s.Save(path)
}

// WriteFile writes a file by renaming a finished one over it.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	err = errors.Join(f.Chmod(mode), writeSync(f, data), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

func writeSync(f *os.File, data []byte) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// newSecret makes a secret of 160 random bits that can be read out on the telephone.
func newSecret() (string, error) {
	raw := make([]byte, 20)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("make API secret: %w", err)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(raw)), nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
