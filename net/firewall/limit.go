package firewall

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The kernel tracks a node's connections in one table, and what does not fit is dropped,
// whoever sends it. By itself it makes that table as small as 4,096 entries on a machine
// of 512 MiB.
const (
	limitsName = TableName + "-limits"
	leastFlows = 65536 // of all, some 20 MB when all are in use
	flowShare  = 16    // of all, for one task
)

// LimitFlows gives each task a share of the connections that the node tracks, so that none
// of them takes all. It has a table of its own that stays as long as the node is up: its
// counts would be lost with every change of the other one.
func LimitFlows(bridge, proc string) error {
	most, err := roomForFlows(proc)
	if err != nil {
		return err
	}
	conn, err := open()
	if err != nil {
		return err
	}
	table := conn.CreateTable(&nftables.Table{Name: limitsName, Family: nftables.TableFamilyINet})
	flows := &nftables.Set{Table: table, Name: "flows", KeyType: nftables.TypeIPAddr, Dynamic: true, Size: leastFlows}
	if err := conn.AddSet(flows, nil); err != nil {
		return fmt.Errorf("make nftables set of flows: %w", err)
	}
	accept := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{
		Name: "flows", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityMangle, Policy: &accept, // behind connection tracking
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: newFlowsBeyond(bridge, flows, most/flowShare)})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("limit the flows of tasks: %w", err)
	}
	return nil
}

// newFlowsBeyond is: iifname bridge ct state new add @flows { ip saddr ct count over most } drop
func newFlowsBeyond(bridge string, flows *nftables.Set, most uint32) []expr.Any {
	e := Is(bridge).expressions(expr.MetaKeyIIFNAME)
	return append(
		e, meta(expr.MetaKeyNFPROTO), compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV4}),
		&expr.Ct{Register: unix.NFT_REG_1, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4),
		},
		compare(expr.CmpOpNeq, make([]byte, 4)),
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: 4},
		&expr.Dynset{
			SrcRegKey: unix.NFT_REG_1, SetName: flows.Name, SetID: flows.ID, Operation: unix.NFT_DYNSET_OP_ADD,
			Exprs: []expr.Any{&expr.Connlimit{Count: most, Flags: expr.NFT_CONNLIMIT_F_INV}},
		},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
}

// roomForFlows sees to it that the node tracks enough connections, and says how many.
func roomForFlows(proc string) (uint32, error) {
	file := filepath.Join(proc, "sys/net/netfilter/nf_conntrack_max")
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read how many connections are tracked: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	if n >= leastFlows {
		return uint32(n), nil
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(leastFlows)), 0); err != nil {
		return 0, fmt.Errorf("track %d connections: %w", leastFlows, err)
	}
	return leastFlows, nil
}
