package images

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/mesolith/mesolith/internal/imagestore"
)

// maxDocument bounds a manifest, an index, a token and an image's configuration.
const maxDocument = 4 << 20

// source is one place to ask for an image.
type source struct {
	ref      name.Reference
	endpoint string // for messages
}

// sources lists the places for a reference: its registry's mirrors in order, then the
// registry itself unless the cluster file says offline.
func (p *puller) sources(reference string) ([]source, error) {
	ref, err := name.ParseReference(reference, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("not a valid image name: %w: write HOST[:PORT]/NAME[:TAG|@sha256:…]", err)
	}
	repo := ref.Context().RepositoryStr()
	host := ref.Context().RegistryStr()
	var out []source
	for _, endpoint := range p.mirrorsOf(host) {
		s, err := mirror(endpoint, repo, ref)
		if err != nil {
			return nil, fmt.Errorf("registries.mirrors of %s: %w", host, err)
		}
		out = append(out, s)
	}
	if p.offline && !isPrivate(host) {
		if len(out) == 0 {
			return nil, fmt.Errorf("registries.offline is set and %s has no mirror: add one under registries.mirrors in the cluster file", host)
		}
		return out, nil
	}
	if isPrivate(host) {
		plain, err := name.ParseReference(reference, name.WeakValidation, name.Insecure)
		if err != nil {
			return nil, err
		}
		ref = plain
	}
	return append(out, source{ref, host}), nil
}

// mirrorsOf knows Docker's registry under each of its names.
func (p *puller) mirrorsOf(host string) []string {
	out := p.mirrors[host]
	if host == name.DefaultRegistry {
		out = append(append([]string(nil), out...), p.mirrors["docker.io"]...)
	}
	return append(append([]string(nil), out...), p.mirrors["*"]...)
}

func mirror(endpoint, repo string, ref name.Reference) (source, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return source{}, fmt.Errorf("%q is not a URL: write http://HOST:PORT or https://HOST", endpoint)
	}
	opts := []name.Option{name.WeakValidation}
	if u.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	full := u.Host + "/" + strings.TrimPrefix(strings.Trim(u.Path, "/")+"/", "/") + repo
	if d, ok := ref.(name.Digest); ok {
		full += "@" + d.DigestStr()
	} else {
		full += ":" + ref.Identifier()
	}
	r, err := name.ParseReference(full, opts...)
	if err != nil {
		return source{}, err
	}
	return source{r, endpoint}, nil
}

// isPrivate says whether a registry is spoken to in the clear when it does not answer
// TLS: only one on this machine or on a private network, and only with a port in its
// name. Elsewhere plain HTTP needs a mirror that says http://.
func isPrivate(registry string) bool {
	host, port, err := net.SplitHostPort(registry)
	if err != nil || port == "" {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && (ip.IsLoopback() || ip.IsPrivate())
}

func (p *puller) fetch(ctx context.Context, reference string) (imagestore.Image, error) {
	sources, err := p.sources(reference)
	if err != nil {
		return imagestore.Image{}, err
	}
	var failures []error
	for _, s := range sources {
		img, err := p.fetchFrom(ctx, s)
		if err == nil {
			return img, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", s.endpoint, explain(err)))
		if ctx.Err() != nil || errors.Is(err, ErrBadEntry) {
			break
		}
	}
	return imagestore.Image{}, errors.Join(failures...)
}

func (p *puller) fetchFrom(ctx context.Context, s source) (imagestore.Image, error) {
	platform, err := v1.ParsePlatform(p.platform)
	if err != nil {
		return imagestore.Image{}, fmt.Errorf("platform %q: %w", p.platform, err)
	}
	desc, err := remote.Get(s.ref, remote.WithContext(ctx), remote.WithTransport(newTransport()), remote.WithPlatform(*platform),
		remote.WithAuth(p.auth.of(s.ref.Context().RegistryStr())), remote.WithUserAgent("mesolith"), remote.WithJobs(2),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Steps: 3}))
	if err != nil {
		return imagestore.Image{}, err
	}
	image, err := desc.Image()
	if err != nil {
		return imagestore.Image{}, fmt.Errorf("it has nothing for this node's platform %s: %w", p.platform, err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return imagestore.Image{}, fmt.Errorf("manifest: %w", err)
	}
	if manifest.Config.Size > maxDocument {
		return imagestore.Image{}, fmt.Errorf("its configuration has %d bytes, at most %d are read", manifest.Config.Size, maxDocument)
	}
	if len(manifest.Layers) > imagestore.MaxLayers {
		return imagestore.Image{}, fmt.Errorf("it has %d layers, at most %d can be mounted", len(manifest.Layers), imagestore.MaxLayers)
	}
	raw, err := image.RawConfigFile()
	if err != nil {
		return imagestore.Image{}, fmt.Errorf("configuration: %w", err)
	}
	if err := checkPlatform(raw, platform); err != nil {
		return imagestore.Image{}, err
	}
	config, diffIDs, err := parseConfig(raw)
	if err != nil {
		return imagestore.Image{}, err
	}
	if len(diffIDs) != len(manifest.Layers) {
		return imagestore.Image{}, fmt.Errorf("its manifest lists %d layers, its configuration %d", len(manifest.Layers), len(diffIDs))
	}
	digest, err := image.Digest()
	if err != nil {
		return imagestore.Image{}, fmt.Errorf("manifest: %w", err)
	}
	out := imagestore.Image{Digest: digest.String(), Config: config}
	for i, l := range manifest.Layers {
		layer, err := image.LayerByDigest(l.Digest)
		if err != nil {
			return imagestore.Image{}, fmt.Errorf("layer %d: %w", i+1, err)
		}
		p.log.Info("layer", "number", i+1, "of", len(manifest.Layers), "digest", l.Digest.String(), "bytes", l.Size)
		name, size, err := p.ensureLayer(layerSource{digest: l.Digest.String(), diffID: diffIDs[i], open: layer.Compressed})
		if err != nil {
			return imagestore.Image{}, fmt.Errorf("layer %d of %d: %w", i+1, len(manifest.Layers), err)
		}
		out.Layers = append(out.Layers, name)
		out.Bytes += size
	}
	return out, nil
}

// checkPlatform refuses an image that no index chose and that says it is for another kind
// of machine: its programs would fail with a word that tells nobody anything.
func checkPlatform(raw []byte, node *v1.Platform) error {
	var c struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("configuration is not valid JSON: %w", err)
	}
	if (c.OS != "" && c.OS != node.OS) || (c.Architecture != "" && c.Architecture != node.Architecture) {
		return fmt.Errorf("it is for %s/%s, this node is %s/%s: build it for that platform, or for several with an index", c.OS, c.Architecture, node.OS, node.Architecture)
	}
	return nil
}

// parseConfig takes what a container needs out of an image's configuration.
func parseConfig(raw []byte) (imagestore.Config, []string, error) {
	var c struct {
		Config struct {
			User       string
			Env        []string
			Entrypoint []string
			Cmd        []string
			WorkingDir string
		} `json:"config"`
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if len(raw) > maxDocument {
		return imagestore.Config{}, nil, fmt.Errorf("configuration has %d bytes, at most %d are read", len(raw), maxDocument)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return imagestore.Config{}, nil, fmt.Errorf("configuration is not valid JSON: %w", err)
	}
	for i, d := range c.RootFS.DiffIDs {
		if _, err := imagestore.LayerName(d); err != nil {
			return imagestore.Config{}, nil, fmt.Errorf("configuration, layer %d: %w", i+1, err)
		}
	}
	return imagestore.Config(c.Config), c.RootFS.DiffIDs, nil
}

// explain adds what to do to an error of the registry's.
func explain(err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		switch te.StatusCode {
		case http.StatusNotFound:
			return fmt.Errorf("%w: the registry does not have it; check name and tag", err)
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%w: the registry wants other credentials; give them in the image's config", err)
		case http.StatusTooManyRequests:
			return fmt.Errorf("%w: the registry limits pulls; set registries.mirrors in the cluster file", err)
		}
		return err
	}
	var ne net.Error
	if errors.As(err, &ne) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the registry cannot be reached: %w; check its address and the node's network, or set registries.mirrors in the cluster file", err)
	}
	if errors.Is(err, ErrDigest) || strings.Contains(err.Error(), "verifying sha256") {
		if !errors.Is(err, ErrDigest) {
			err = fmt.Errorf("%w: %w", ErrDigest, err)
		}
		return fmt.Errorf("%w; nothing of it was used: the registry or something before it alters bytes, push the image again", err)
	}
	if errors.Is(err, errSlow) {
		return fmt.Errorf("%w; check the way to it, or set registries.mirrors in the cluster file", err)
	}
	if errors.Is(err, ErrBadEntry) {
		return fmt.Errorf("%w; nothing of it was used: build the image again", err)
	}
	return err
}

// newTransport bounds what a registry may make the puller wait for or read.
func newTransport() http.RoundTripper {
	return boundedTransport{patience: patience, next: plainTransport()}
}

// plainTransport bounds what a server may make us wait for before it answers.
func plainTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       10 * time.Second,
	}
}

// isBlob tells a blob's bytes from all other answers; registries send them from
// elsewhere, by a redirection.
func isBlob(r *http.Request) bool {
	for {
		if strings.HasPrefix(r.URL.Path, "/v2/") && strings.Contains(r.URL.Path, "/blobs/") {
			return true
		}
		if r.Response == nil || r.Response.Request == nil {
			return false
		}
		r = r.Response.Request
	}
}

// boundedTransport cuts every answer but a blob's at maxDocument, and gives up one that
// does not come on.
type boundedTransport struct {
	next     http.RoundTripper
	patience time.Duration
}

func (b boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	resp, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &patient{body: resp.Body, giveUp: cancel, left: b.patience}
	if isBlob(r) {
		return resp, nil // its size is checked against its descriptor while it is read
	}
	if resp.ContentLength > maxDocument {
		resp.Body.Close()
		return nil, fmt.Errorf("answer of %s has %d bytes, at most %d are read", r.URL.Redacted(), resp.ContentLength, maxDocument)
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxDocument), resp.Body}
	return resp, nil
}

// authFile is what a docker config.json says about registries.
type authFile map[string]authn.AuthConfig

func parseAuth(raw []byte) (authFile, error) {
	var c struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
			RegistryToken string `json:"registrytoken"`
		} `json:"auths"`
	}
	if len(raw) > maxDocument {
		return nil, fmt.Errorf("docker config has %d bytes, at most %d are read", len(raw), maxDocument)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("docker config is not valid JSON: %w", err)
	}
	out := authFile{}
	for host, a := range c.Auths {
		user, password := a.Username, a.Password
		if a.Auth != "" {
			pair, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("docker config, auths[%q].auth is not base64: %w", host, err)
			}
			user, password, _ = strings.Cut(string(pair), ":")
		}
		host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		if host == "docker.io" {
			host = name.DefaultRegistry
		}
		out[host] = authn.AuthConfig{Username: user, Password: password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	}
	return out, nil
}

func (a authFile) of(registry string) authn.Authenticator {
	c, ok := a[registry]
	if !ok {
		return authn.Anonymous
	}
	return authn.FromConfig(c)
}

func fileDigest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return digestOf(h), nil
}
