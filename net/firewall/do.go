package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// netlinkBuffer holds a whole transaction and the kernel's answers to it: a table is
// sent at once or not at all.
const netlinkBuffer = 16 << 20

// Replace puts the table in the place of the one that is there, in one transaction.
func Replace(t Table) error {
	conn, err := open()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	conn.AddTable(table)
	accept := nftables.ChainPolicyAccept
	for _, c := range t.Chains {
		chain := conn.AddChain(&nftables.Chain{
			Name: c.Name, Table: table, Type: chainTypes[c.Kind], Hooknum: hooks[c.Hook],
			Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority)), Policy: &accept,
		})
		for _, r := range c.Rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.expressions()})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("replace nftables table %s: %w", TableName, err)
	}
	return nil
}

// Remove takes the table away; without one it does nothing.
func Remove() error {
	conn, err := open()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	conn.AddTable(table)
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", TableName, err)
	}
	return nil
}

func open() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *mdnetlink.Conn) error {
		if err := c.SetWriteBuffer(netlinkBuffer); err != nil {
			return err
		}
		return c.SetReadBuffer(netlinkBuffer)
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
}

var chainTypes = map[Kind]nftables.ChainType{Filter: nftables.ChainTypeFilter, NAT: nftables.ChainTypeNAT}

var hooks = map[Hook]*nftables.ChainHook{
	Prerouting:  nftables.ChainHookPrerouting,
	Input:       nftables.ChainHookInput,
	Forward:     nftables.ChainHookForward,
	Output:      nftables.ChainHookOutput,
	Postrouting: nftables.ChainHookPostrouting,
}

// expressions is the rule in the kernel's terms: each condition loads register 1 and
// compares it.
func (r Rule) expressions() []expr.Any {
	var e []expr.Any
	e = append(e, r.In.expressions(expr.MetaKeyIIFNAME)...)
	e = append(e, r.Out.expressions(expr.MetaKeyOIFNAME)...)
	if r.Source.prefix.IsValid() || r.Destination.prefix.IsValid() || r.Do == Translate {
		e = append(e, meta(expr.MetaKeyNFPROTO), compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV4}))
	}
	e = append(e, r.Source.expressions(sourceOffset)...)
	e = append(e, r.Destination.expressions(destinationOffset)...)
	if r.Local {
		e = append(e, &expr.Fib{Register: unix.NFT_REG_1, FlagDADDR: true, ResultADDRTYPE: true},
			compare(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)))
	}
	if r.Translated {
		e = append(e, &expr.Ct{Register: unix.NFT_REG_1, Key: expr.CtKeySTATUS},
			&expr.Bitwise{
				SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(statusDestinationNAT), Xor: make([]byte, 4),
			},
			compare(expr.CmpOpNeq, make([]byte, 4)))
	}
	if r.Protocol != AnyProtocol {
		e = append(e, meta(expr.MetaKeyL4PROTO), compare(expr.CmpOpEq, []byte{protocolNumbers[r.Protocol]}))
	}
	e = append(e, r.From.expressions(0)...)
	e = append(e, r.To.expressions(2)...)
	return append(e, r.verdict()...)
}

const (
	sourceOffset         = 12 // in an IPv4 header
	destinationOffset    = 16
	statusDestinationNAT = 1 << 5 // IPS_DST_NAT of nf_conntrack_common.h
)

var protocolNumbers = map[Protocol]byte{TCP: unix.IPPROTO_TCP, UDP: unix.IPPROTO_UDP}

func (r Rule) verdict() []expr.Any {
	switch r.Do {
	case NoTrack:
		return []expr.Any{&expr.Notrack{}}
	case Masquerade:
		return []expr.Any{&expr.Masq{}}
	case Translate:
		address := r.Address.As4()
		e := []expr.Any{&expr.Immediate{Register: unix.NFT_REG_1, Data: address[:]}}
		nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: unix.NFT_REG_1, RegAddrMax: unix.NFT_REG_1}
		if r.Port != 0 {
			e = append(e, &expr.Immediate{Register: unix.NFT_REG_2, Data: binary.BigEndian.AppendUint16(nil, r.Port)})
			nat.RegProtoMin, nat.RegProtoMax = unix.NFT_REG_2, unix.NFT_REG_2
		}
		return append(e, nat)
	default:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	}
}

func (n Name) expressions(key expr.MetaKey) []expr.Any {
	if n.name == "" {
		return nil
	}
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, n.name)
	return []expr.Any{meta(key), compare(operator(n.not), padded)}
}

func (n Net) expressions(offset uint32) []expr.Any {
	if !n.prefix.IsValid() {
		return nil
	}
	address := n.prefix.Addr().As4()
	return []expr.Any{
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: mask(n.prefix), Xor: make([]byte, 4)},
		compare(operator(n.not), address[:]),
	}
}

func mask(p netip.Prefix) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(uint64(0xffffffff)<<(32-p.Bits())))
}

// expressions compares a port; offset is its place in the transport header.
func (p Ports) expressions(offset uint32) []expr.Any {
	if p.End == 0 {
		return nil
	}
	load := &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
	begin, end := binary.BigEndian.AppendUint16(nil, p.Begin), binary.BigEndian.AppendUint16(nil, p.End)
	if p.Begin == p.End {
		return []expr.Any{load, compare(expr.CmpOpEq, begin)}
	}
	return []expr.Any{load, &expr.Range{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, FromData: begin, ToData: end}}
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: unix.NFT_REG_1} }

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: data}
}

func operator(not bool) expr.CmpOp {
	if not {
		return expr.CmpOpNeq
	}
	return expr.CmpOpEq
}
