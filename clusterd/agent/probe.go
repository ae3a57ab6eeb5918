package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

const (
	maxRedirects   = 10
	maxHeaderBytes = 64 << 10
	maxWhy         = 512                   // bytes of a reason; parts of it are a stranger's
	probeSlack     = 5 * time.Second       // beyond a probe's time, for isolated to say so
	leastProbeTime = 10 * time.Millisecond // isolated is asked for
)

// prober makes the probes of checks. Connections into a task's network are made by
// isolated, which has the rights to; what is said on them is said here, without any.
type prober struct{ keeper Sandbox }

// errAway: nobody could look, which says nothing of the task.
var errAway = errors.New("the container keeper cannot be asked")

// probe makes one probe of a check. An error says that nobody could look.
func (p prober) probe(ctx context.Context, container string, c task.Check) (task.Found, error) {
	inTime, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var found task.Found
	var err error
	switch c.Type {
	case mesosv1.CheckInfo_COMMAND:
		found, err = p.command(inTime, container, c)
	case mesosv1.CheckInfo_HTTP:
		found, err = p.http(inTime, container, c)
	default:
		var conn net.Conn
		if conn, err = p.connect(inTime, container, c); err == nil {
			conn.Close()
		}
		found, err = failure(err)
	}
	if ctx.Err() != nil {
		return found, ctx.Err()
	}
	found.Why = bounded(found.Why)
	return found, err
}

// probeFault is a task's own fault.
type probeFault string

func (f probeFault) Error() string { return string(f) }

// failure tells a task's fault from all else.
func failure(err error) (task.Found, error) {
	var fault probeFault
	switch {
	case err == nil:
		return task.Found{}, nil
	case errors.As(err, &fault):
		return task.Found{Why: err.Error()}, nil
	}
	return task.Found{}, err
}

// bounded makes of a reason what can be shown.
func bounded(s string) string {
	if len(s) > maxWhy {
		s = s[:maxWhy] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// ask has isolated look once.
func (p prober) ask(ctx context.Context, m *keeper.Probe) (*keeper.Probed, *os.File, error) {
	left := leastProbeTime
	if d, ok := ctx.Deadline(); ok {
		left = max(time.Until(d), left)
	}
	m.TimeoutNs = int64(left)
	// isolated says when the time is over: it ends what it began before.
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), left+probeSlack)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel()
		}
	})
	defer stop()
	resp, f, err := p.keeper.askAs(wait, "clusterd-checks", left+probeSlack, &keeper.Request{Id: 2, Body: &keeper.Request_Probe{Probe: m}})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errAway, err)
	}
	if resp.GetProbed() == nil {
		if f != nil {
			f.Close()
		}
		return nil, nil, fmt.Errorf("%w: it did not answer", errAway)
	}
	return resp.GetProbed(), f, nil
}

func (p prober) connect(ctx context.Context, container string, c task.Check) (net.Conn, error) {
	out, f, err := p.ask(ctx, &keeper.Probe{ContainerId: container, What: &keeper.Probe_Connect{Connect: &keeper.Connect{Port: c.Port, Ipv6: c.IPv6}}})
	if f != nil {
		defer f.Close()
	}
	switch {
	case err != nil:
		return nil, err
	case out.GetWhy() != "":
		return nil, probeFault(out.GetWhy())
	case f == nil:
		return nil, fmt.Errorf("%w: it sent no connection", errAway)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%w: what it sent is no connection: %w", errAway, err)
	}
	return conn, nil
}

func (p prober) command(ctx context.Context, container string, c task.Check) (task.Found, error) {
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(c.Command)
	if err != nil {
		return task.Found{}, err
	}
	out, f, err := p.ask(ctx, &keeper.Probe{ContainerId: container, What: &keeper.Probe_Command{Command: raw}})
	if f != nil {
		f.Close()
	}
	if err != nil {
		return task.Found{}, err
	}
	return task.Found{Why: out.GetWhy(), ExitCode: out.GetExitCode()}, nil
}

// http asks for a page and looks at the answer's status, not at the rest. Certificates
// are not verified: what is asked is the task itself, by no name.
func (p prober) http(ctx context.Context, container string, c task.Check) (task.Found, error) {
	host := fmt.Sprintf("127.0.0.1:%d", c.Port)
	if c.IPv6 {
		host = fmt.Sprintf("[::1]:%d", c.Port)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Scheme+"://"+host+c.Path, nil)
	if err != nil {
		return task.Found{Why: err.Error()}, nil
	}
	req.Header.Set("User-Agent", "mesolith-check")
	transport := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return p.connect(ctx, container, c) },
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return probeFault(fmt.Sprintf("more than %d redirects", maxRedirects))
		}
		if !samePort(next.URL, c) {
			return http.ErrUseLastResponse // of another place only the task speaks
		}
		return nil
	}}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, errAway):
		return task.Found{}, err
	case err != nil && ctx.Err() != nil:
		return task.Found{Why: fmt.Sprintf("no answer within %s", c.Timeout)}, nil
	case err != nil:
		var u *url.Error // its own words have the whole address
		if errors.As(err, &u) {
			err = u.Err
		}
		return task.Found{Why: fmt.Sprintf("GET %s://%s%s: %v", c.Scheme, host, c.Path, err)}, nil
	}
	resp.Body.Close()
	return task.Found{StatusCode: uint32(resp.StatusCode)}, nil
}

// samePort says whether a redirect leads to where the check itself looks.
func samePort(u *url.URL, c task.Check) bool {
	switch u.Hostname() {
	case "localhost", "127.0.0.1", "::1":
	default:
		return false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return port == fmt.Sprint(c.Port) && (u.Scheme == "http" || u.Scheme == "https")
}
