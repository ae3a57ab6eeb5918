package doors

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func open(t *testing.T, plain func(net.Addr) bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, Config{TLS: &tls.Config{Certificates: []tls.Certificate{certificate(t)}}, Plain: plain},
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.TLS != nil {
					io.WriteString(w, "tls")
					return
				}
				io.WriteString(w, "plain")
			}))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestOnePortSpeaksBoth(t *testing.T) {
	addr := open(t, nil)
	// A client that says nothing must not stand in anybody's way.
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if code, body := get(t, "https://"+addr); code != 200 || body != "tls" {
		t.Errorf("https: %d %q", code, body)
	}
	if code, body := get(t, "http://"+addr); code != 200 || body != "plain" {
		t.Errorf("http: %d %q", code, body)
	}
}

func TestPlainIsRefusedWithTheReason(t *testing.T) {
	addr := open(t, func(net.Addr) bool { return false })
	if code, body := get(t, "https://"+addr); code != 200 || body != "tls" {
		t.Errorf("https: %d %q", code, body)
	}
	if code, body := get(t, "http://"+addr); code != 403 || !strings.Contains(body, "plaintext: true") {
		t.Errorf("http: %d %q", code, body)
	}
}
