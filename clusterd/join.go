package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"

	"github.com/mesolith/mesolith/clusterd/peers"
	"github.com/mesolith/mesolith/internal/joinwire"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/provision/pki"
)

// issuer gives this master's word to machines that join.
type issuer struct {
	secrets  nodedoc.IssuerSecrets
	document nodedoc.ClusterDocument
}

// newIssuer reads what a master's medium brought: the issuing key and who may join.
func newIssuer(n *noded.Node, anchor nodedoc.Anchor) (*issuer, error) {
	c := n.GetCredentials()
	if len(c.GetIssuingKeyPem()) == 0 || len(n.GetClusterDocument()) == 0 {
		return nil, nil
	}
	doc, err := nodedoc.OpenCluster(n.GetClusterDocument(), anchor)
	if err != nil {
		return nil, fmt.Errorf("open cluster document: %w", err)
	}
	return &issuer{
		document: doc,
		secrets: nodedoc.IssuerSecrets{
			IssuingKeyPEM: string(c.GetIssuingKeyPem()), IssuingCertPEM: string(c.GetIssuingCertificatePem()), CAPEM: string(c.GetCaPem()),
		},
	}, nil
}

// serveJoin answers join/1 on a master that can issue.
func (b *member) serveJoin(ctx context.Context) error {
	signer, err := pki.OpenIssuer(b.issuer.secrets, *b.anchor)
	if err != nil {
		return fmt.Errorf("open issuing key: %w", err)
	}
	i := &joinwire.Issuer{
		Name: b.doc.Name, ClusterID: b.doc.ClusterID, Now: b.now, LivesWait: 10 * milliseconds(b.doc.Raft.HeartbeatMS), Log: b.log.With("room", "join"),
		BootKey: func(name string) (ed25519.PublicKey, bool) {
			a, ok := b.issuer.document.Nodes[name]
			return a.BootKey, ok
		},
		Lives: func(ctx context.Context, name string) (joinwire.Living, bool) {
			incarnation, key, ok := b.mux.Lives(ctx, name)
			return joinwire.Living{Incarnation: incarnation, Key: key}, ok
		},
		Issue: func(name, incarnation string, csr []byte, remote net.Addr) ([][]byte, error) {
			n := pki.Node{Name: name, Incarnation: incarnation, Master: b.doc.Masters.Has(name)}
			if host, _, err := net.SplitHostPort(remote.String()); err == nil {
				n.Addresses = append(n.Addresses, net.ParseIP(host))
			}
			return signer.IssueNode(csr, n, b.now())
		},
	}
	return i.Serve(ctx, b.mux.Listener(peers.Join))
}
