package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/pid1"
)

const (
	pid1Protocol = 1
	pid1Timeout  = 5 * time.Second
	maxPid1Frame = 1 << 20
)

// askInit sends PID 1 one request and gives its answer.
func (n *machine) askInit(ctx context.Context, req *pid1.Request) (*pid1.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, pid1Timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", n.cfg.InitSocket)
	if err != nil {
		return nil, fmt.Errorf("ask init: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	hello := &pid1.Request{Id: 1, Body: &pid1.Request_Hello{Hello: &pid1.Hello{Protocol: pid1Protocol, Program: "noded"}}}
	req.Id = 2
	var resp pid1.Response
	for _, r := range []*pid1.Request{hello, req} {
		if err := wire.Write(conn, r); err != nil {
			return nil, fmt.Errorf("ask init: %w", err)
		}
		resp.Reset()
		if err := wire.Read(conn, &resp, maxPid1Frame); err != nil {
			return nil, fmt.Errorf("ask init: %w", err)
		}
		if resp.Error != "" {
			return nil, errors.New("init refuses: " + resp.Error)
		}
	}
	return &resp, nil
}
