package cluster

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// OperatorTransport makes the transport that speaks to a cluster's nodes as an operator
// and believes the root that the anchor pins and no other. A nil dialler is the host's.
func OperatorTransport(certPEM, keyPEM, anchorJSON []byte) (func(DialFunc) http.RoundTripper, error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("operator's certificate: %w", err)
	}
	var anchor nodedoc.Anchor
	if err := json.Unmarshal(anchorJSON, &anchor); err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	if err := anchor.Check(); err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	return func(dial DialFunc) http.RoundTripper {
		return &http.Transport{
			DialContext: dial, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{
				Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
				// Names are not what is checked: the chain must end at the pinned root.
				InsecureSkipVerify: true,
				VerifyConnection: func(state tls.ConnectionState) error {
					_, err := nodecert.VerifyPeer(state, anchor, time.Now())
					return err
				},
			},
		}
	}, nil
}
