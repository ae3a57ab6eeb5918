//go:build faults

package firewall

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Translations reads from the kernel which rules lead a port to a task, for tests that
// look for what was left.
func Translations() ([]string, error) {
	conn, err := open()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var out []string
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("list rules of %s: %w", c.Name, err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if _, ok := e.(*expr.NAT); ok {
					out = append(out, fmt.Sprintf("%s rule %d", c.Name, r.Handle))
				}
			}
		}
	}
	return out, nil
}
