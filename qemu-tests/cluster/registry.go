package cluster

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/mesolith/mesolith/qemu-tests/lan"
)

// RegistryPort is the registry's port on the gateway.
const RegistryPort = 5000

// Registry serves images to the machines of one LAN, out of memory.
type Registry struct {
	// Host is what references begin with on the LAN: gateway address and port.
	Host    string
	handler http.Handler
	server  *http.Server
	wg      sync.WaitGroup
}

func newRegistry(wire *lan.LAN, logger *slog.Logger) (*Registry, error) {
	ln, err := wire.Listen(RegistryPort)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	r := &Registry{
		Host:    netip.AddrPortFrom(wire.Gateway(), RegistryPort).String(),
		handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
	}
	r.server = &http.Server{Handler: r.handler}
	r.serve(ln, logger)
	return r, nil
}

// Open lets the host push to the registry and pull from it at a TCP address, for example
// 127.77.1.250:5000. It gives the address opened.
func (r *Registry) Open(listen string, logger *slog.Logger) (string, error) {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return "", fmt.Errorf("open the registry at %s: %w", listen, err)
	}
	r.serve(ln, logger)
	return ln.Addr().String(), nil
}

func (r *Registry) serve(ln net.Listener, logger *slog.Logger) {
	r.wg.Go(func() {
		if err := r.server.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			logger.Error("registry ended", "error", err)
		}
	})
}

func (r *Registry) close() {
	_ = r.server.Close() // its listeners end with it
	r.wg.Wait()
}

// Handler answers the registry's protocol, for whoever wants to spoil an answer.
func (r *Registry) Handler() http.Handler { return r.handler }

// Push stores an image under a name such as "hello:1" and gives the reference by which
// the machines find it, with its digest.
func (r *Registry) Push(ctx context.Context, as string, img v1.Image) (string, error) {
	return PushTo(ctx, r.handler, r.Host, as, img)
}

// PushTo stores an image in the registry that a handler is, under the name that machines
// reach it by.
func PushTo(ctx context.Context, handler http.Handler, host, as string, img v1.Image) (string, error) {
	ref, err := name.NewTag(host+"/"+as, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("push image %s: %w", as, err)
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithTransport(inside{handler})); err != nil {
		return "", fmt.Errorf("push image %s: %w", as, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("push image %s: %w", as, err)
	}
	return ref.Context().Digest(digest.String()).Name(), nil
}

// inside answers HTTP requests by a handler, without a connection.
type inside struct{ handler http.Handler }

func (i inside) RoundTrip(req *http.Request) (*http.Response, error) {
	w := &answer{header: http.Header{}}
	served := req.Clone(req.Context())
	if served.Body == nil {
		served.Body = http.NoBody
	}
	served.RequestURI = req.URL.RequestURI()
	i.handler.ServeHTTP(w, served)
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return &http.Response{
		Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: w.header, Request: req,
		Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()),
	}, nil
}

type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// ProgramImage is an image that holds one static program and runs it.
func ProgramImage(program string, env ...string) (v1.Image, error) {
	body, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("image of %s: %w", program, err)
	}
	img, err := FilesImage(map[string]File{"program": {Mode: 0o755, Body: body}}, v1.Config{
		Entrypoint: []string{"/program"}, Env: append([]string{"PATH=/"}, env...), WorkingDir: "/",
	})
	if err != nil {
		return nil, fmt.Errorf("image of %s: %w", program, err)
	}
	return img, nil
}

// File is a file of an image.
type File struct {
	Mode int64
	Body []byte
}

// FilesImage is an image of one layer with the given files; the same files give the same
// digest.
func FilesImage(files map[string]File, cfg v1.Config) (v1.Image, error) {
	layerBytes, err := layerOf(files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layerBytes)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = "amd64", "linux", cfg
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	return img, nil
}

func layerOf(files map[string]File) ([]byte, error) {
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	for _, name := range sortedNames(files) {
		f := files[name]
		hdr := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: f.Mode, Size: int64(len(f.Body))}
		if err := w.WriteHeader(hdr); err != nil {
			return nil, fmt.Errorf("layer entry %s: %w", name, err)
		}
		if _, err := w.Write(f.Body); err != nil {
			return nil, fmt.Errorf("layer entry %s: %w", name, err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return buf.Bytes(), nil
}

func sortedNames(files map[string]File) []string {
	return slices.Sorted(maps.Keys(files))
}
