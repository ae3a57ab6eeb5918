package cluster

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

func TestConsoleLinesBecomeEvents(t *testing.T) {
	for line, want := range map[string]Event{
		"mesolith: phase mounts 0.41s ok":                        {Kind: Phase, Text: "mounts 0.41s ok"},
		"[    1.234567] mesolith: phase network 12.00s retry: x": {Kind: Phase, Text: "network 12.00s retry: x"},
		"mesolith: up 3.21s":                                     {Kind: Up, Text: "3.21s"},
		"mesolith: up to no good":                                {Kind: Trouble, Text: "up to no good"},
		"[    0.1] Kernel panic - not syncing: x":                {Kind: Trouble, Text: "[    0.1] Kernel panic - not syncing: x"},
		"[    0.1] virtio_net virtio0 lan: renamed":              {},
	} {
		got, ok := readLine(line)
		if ok != (want != Event{}) {
			t.Errorf("%q: taken %t", line, ok)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", line, diff)
		}
	}
}

func TestRegistryServesWhatWasPushed(t *testing.T) {
	c, err := Prepare(Config{Name: "test", Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	img, err := FilesImage(map[string]File{"program": {Mode: 0o755, Body: []byte("x")}}, v1.Config{Entrypoint: []string{"/program"}})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := c.Registry.Push(t.Context(), "hello:1", img)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(ref, "10.77.0.1:5000/hello@sha256:") {
		t.Errorf("reference %s", ref)
	}
	at, err := c.Registry.Open("127.0.0.1:0", c.cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(at+"/hello:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: 10 * time.Second}
	pulled, err := remote.Image(tag, remote.WithContext(t.Context()), remote.WithTransport(transport))
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pulled.Digest(); err != nil || got != want {
		t.Errorf("pulled %s, %v; pushed %s", got, err, want)
	}
}

func TestPlainHTTPFromTheHost(t *testing.T) {
	gateway := DefaultSubnet.Addr().Next()
	for _, c := range []struct {
		api  nodedoc.API
		want bool
	}{
		{nodedoc.API{}, false},
		{nodedoc.API{Plaintext: true}, true},
		{nodedoc.API{Plaintext: true, PlaintextFrom: []string{"192.0.2.0/24"}}, false},
		{nodedoc.API{Plaintext: true, PlaintextFrom: []string{"192.0.2.0/24", "10.77.0.0/16"}}, true},
	} {
		if got := plaintextFrom(c.api, gateway); got != c.want {
			t.Errorf("%+v: %t", c.api, got)
		}
	}
}
