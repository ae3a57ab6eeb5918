package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// What a plugin may say at most.
const (
	maxOutput    = 64 << 10
	maxAddresses = 16
)

// plugins runs CNI plugins: with a bound on what they print, and with an end for all
// their processes when the time is over (bridge runs host-local).
type plugins struct{ version.PluginDecoder }

// ExecPlugin runs one.
func (*plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bounded
	c := exec.CommandContext(ctx, path)
	c.Env, c.Stdin, c.Stdout, c.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 2 * time.Second
	err := c.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("CNI plugin %s: %w", path, ctx.Err())
	case stdout.full:
		return nil, fmt.Errorf("CNI plugin %s printed more than %d bytes", path, maxOutput)
	case err != nil:
		return nil, pluginError(path, err, stdout.data.Bytes(), stderr.data.Bytes())
	}
	return stdout.data.Bytes(), nil
}

// FindInPath gives the plugin's file.
func (*plugins) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// pluginError is what the plugin says about its failure, which is JSON on its standard
// output, or else its last words.
func pluginError(path string, err error, stdout, stderr []byte) error {
	var said types.Error
	if json.Unmarshal(stdout, &said) == nil && said.Msg != "" {
		return fmt.Errorf("CNI plugin %s: %w", path, &said)
	}
	words := strings.TrimSpace(string(append(stderr, stdout...)))
	if len(words) > 512 {
		words = words[len(words)-512:]
	}
	return fmt.Errorf("CNI plugin %s: %w: %q", path, err, words)
}

// bounded keeps up to maxOutput bytes and swallows the rest, so that a plugin which
// prints too much comes to its end.
type bounded struct {
	data bytes.Buffer
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := maxOutput - b.data.Len()
	if len(p) > room {
		b.full = true
		b.data.Write(p[:room])
		return len(p), nil
	}
	return b.data.Write(p)
}

// errResult tells that a plugin's result makes no sense here.
var errResult = errors.New("result of the CNI plugins is not usable")

// result takes from the plugins' result what the record keeps.
func (r *Record) result(res types.Result, s Settings) error {
	got, err := types100.GetResult(res)
	if err != nil {
		return fmt.Errorf("%w: %w", errResult, err)
	}
	if len(got.IPs) == 0 || len(got.IPs) > maxAddresses {
		return fmt.Errorf("%w: %d addresses", errResult, len(got.IPs))
	}
	var addresses []netip.Addr
	for _, ip := range got.IPs {
		if ip == nil {
			return fmt.Errorf("%w: an address is missing", errResult)
		}
		address, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok || !s.Subnet.Contains(address.Unmap()) || address.Unmap() == gateway(s.Subnet) {
			return fmt.Errorf("%w: address %s is not a task's in %s", errResult, ip.Address.IP, s.Subnet)
		}
		addresses = append(addresses, address.Unmap())
	}
	for _, i := range got.Interfaces {
		if i != nil && i.Sandbox == "" && i.Name != Bridge && len(i.Name) < 16 {
			r.Veth = i.Name
		}
	}
	r.Addresses, r.Gateway, r.Added = addresses, gateway(s.Subnet), true
	return nil
}
