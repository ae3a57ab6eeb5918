package firewall

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// The limit is made once, and stays when the table of ports is replaced.
func TestFlowsAreLimitedOnce(t *testing.T) {
	proc := t.TempDir()
	file := filepath.Join(proc, "sys/net/netfilter/nf_conntrack_max")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("4096\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	alone(t, func() {
		for range 2 {
			if err := LimitFlows("mesos0", proc); err != nil {
				t.Error(err)
				return
			}
			table, err := Plan(settings())
			if err == nil {
				err = Replace(table)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
		conn, err := nftables.New()
		if err != nil {
			t.Error(err)
			return
		}
		rules, err := conn.GetRules(&nftables.Table{Name: limitsName, Family: nftables.TableFamilyINet}, &nftables.Chain{Name: "flows"})
		if err != nil || len(rules) != 1 {
			t.Errorf("%d rules, %v", len(rules), err)
			return
		}
		for _, e := range rules[0].Exprs {
			set, ok := e.(*expr.Dynset)
			if !ok {
				continue
			}
			if limit, ok := set.Exprs[0].(*expr.Connlimit); !ok || limit.Count != leastFlows/flowShare || limit.Flags != expr.NFT_CONNLIMIT_F_INV {
				t.Errorf("the limit is %+v", set.Exprs[0])
			}
			return
		}
		t.Error("the rule counts nothing")
	})
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "65536" {
		t.Errorf("the kernel tracks %q, %v", raw, err)
	}
}

func TestMoreFlowsThanTheLeastStay(t *testing.T) {
	proc := t.TempDir()
	file := filepath.Join(proc, "sys/net/netfilter/nf_conntrack_max")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("262144\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := roomForFlows(proc); n != 262144 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := roomForFlows(t.TempDir()); err == nil {
		t.Error("no error without connection tracking")
	}
}
