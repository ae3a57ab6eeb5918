package agent

import (
	"context"
	"net/netip"
	"net/url"
)

// Provisioning says which doors a node's document came through: the addresses of an http
// or https source, which are closed to tasks; none for any other source. lookup asks for
// a name's addresses.
func Provisioning(ctx context.Context, source string, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) ([]string, error) {
	u, err := url.Parse(source)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, nil
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	addresses := []netip.Addr{}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		addresses = append(addresses, a)
	} else if addresses, err = lookup(ctx, "ip4", u.Hostname()); err != nil {
		return nil, err
	}
	var out []string
	for _, a := range addresses {
		if a = a.Unmap(); a.Is4() {
			out = append(out, a.String()+":"+port)
		}
	}
	return out, nil
}
