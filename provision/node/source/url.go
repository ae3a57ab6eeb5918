package source

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

// NodeArgument is the word of the kernel's command line that names the document's URL.
const NodeArgument = "mesolith.node"

// openURL fetches the node document that the kernel's command line names. What comes
// this way is public, so that no key and no issuer is asked for.
func openURL(ctx context.Context, cfg Config) ([]medium, []Tried) {
	text, ok := Argument(cfg.CommandLine, NodeArgument)
	if !ok {
		return nil, []Tried{{"kernel's command line", "no " + NodeArgument + "=URL in it"}}
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, []Tried{{NodeArgument, fmt.Sprintf("%.200q is not an http or https URL", text)}}
	}
	if !cfg.Network {
		return nil, []Tried{{u.Redacted(), "waiting for an address"}}
	}
	return []medium{{name: u.Redacted(), read: func(file string, most int64) ([]byte, error) {
		if file != nodeFile {
			return nil, fs.ErrNotExist
		}
		return fetch(ctx, cfg, *u, most)
	}}}, nil
}

func fetch(ctx context.Context, cfg Config, u url.URL, most int64) ([]byte, error) {
	query := u.Query()
	for _, mac := range cfg.Machine.MACs {
		query.Add("mac", mac)
	}
	query.Set("uuid", cfg.Machine.UUID)
	query.Set("serial", cfg.Machine.Serial)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := cfg.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %s", resp.Status)
	}
	return readBounded(resp.Body, min(most, nodedoc.MaxNodeDocument))
}
