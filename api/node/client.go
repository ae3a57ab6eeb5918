package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Client calls the API of one node.
type Client struct {
	// Base is the node's URL, such as https://10.7.0.11:5053.
	Base string
	// HTTP carries the operator's certificate and knows the cluster's root.
	HTTP *http.Client
}

// maxAnswer bounds one JSON answer, in bytes.
const maxAnswer = 8 << 20

// ErrRefused is wrapped by every answer of a node that is not a success.
var ErrRefused = errors.New("the node refuses")

// Health asks how the machine is.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var out Health
	return out, c.get(ctx, "/v1/health", &out)
}

// Inventory asks what the machine is made of.
func (c *Client) Inventory(ctx context.Context) (Inventory, error) {
	var out Inventory
	return out, c.get(ctx, "/v1/inventory", &out)
}

// Services asks for the state of the supervised programs.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	var out []Service
	return out, c.get(ctx, "/v1/services", &out)
}

// Memory asks what the machine's memory goes to.
func (c *Client) Memory(ctx context.Context) (Memory, error) {
	var out Memory
	return out, c.get(ctx, "/v1/memory", &out)
}

// Dmesg gives the kernel's log as text; the caller closes it.
func (c *Client) Dmesg(ctx context.Context) (io.ReadCloser, error) {
	return c.call(ctx, http.MethodGet, "/v1/dmesg", nil)
}

// Logs gives a program's log as text, with follow until ctx ends; the caller closes it.
func (c *Client) Logs(ctx context.Context, program string, follow bool) (io.ReadCloser, error) {
	query := url.Values{"program": {program}}
	if follow {
		query.Set("follow", "1")
	}
	return c.call(ctx, http.MethodGet, "/v1/logs", query)
}

// Reboot ends all programs in order and starts the machine anew.
func (c *Client) Reboot(ctx context.Context, reason string) error {
	return c.post(ctx, "/v1/reboot", url.Values{"reason": {reason}})
}

// Poweroff ends all programs in order and turns the machine off.
func (c *Client) Poweroff(ctx context.Context, reason string) error {
	return c.post(ctx, "/v1/poweroff", url.Values{"reason": {reason}})
}

// Admit lets a machine that waits carry its master's name instead of the known one. It is
// told to masters; the leader writes it into the cluster's state.
func (c *Client) Admit(ctx context.Context, h Held) error {
	return c.post(ctx, "/v1/masters/admit", url.Values{"master": {h.Master}, "hardware": {h.Hardware}, "instead": {h.Known}})
}

// Kill sends a signal (KILL, TERM, …) to a supervised program.
func (c *Client) Kill(ctx context.Context, service, signal string) error {
	return c.post(ctx, "/v1/services/kill", url.Values{"name": {service}, "signal": {signal}})
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	body, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("read answer of %s%s: %w", c.Base, path, err)
	}
	return nil
}

func (c *Client) post(ctx context.Context, path string, query url.Values) error {
	body, err := c.call(ctx, http.MethodPost, path, query)
	if err != nil {
		return err
	}
	return body.Close()
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values) (io.ReadCloser, error) {
	at := strings.TrimRight(c.Base, "/") + path
	if len(query) > 0 {
		at += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, at, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", at, err)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask node: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var why Failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&why); err != nil || why.Error == "" {
		why.Error = resp.Status
	}
	return nil, fmt.Errorf("%s %s: %w: %s", method, at, ErrRefused, why.Error)
}
