package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/nodeplan"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/provision/node/clock"
	"github.com/mesolith/mesolith/provision/node/identity"
	"github.com/mesolith/mesolith/provision/node/inventory"
	"github.com/mesolith/mesolith/provision/node/source"
)

// Pace of the search for a document: drivers of media come up while it runs.
const (
	searchFast  = 200 * time.Millisecond
	searchSlow  = 3 * time.Second
	patientFor  = 4 * time.Second
	urlDeadline = 15 * time.Second
)

// findDocument takes up what an earlier start found, else it searches until a source has
// a valid document.
func (n *machine) findDocument(ctx context.Context) (source.Found, error) {
	dir := filepath.Join(n.cfg.SecretDir, "document")
	found, err := source.Kept(source.Config{Root: n.cfg.Root, CommandLine: n.cfg.CommandLine}, dir)
	if err == nil {
		return found, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		n.cfg.Log.Warn("searching anew", "why", err)
	}
	if found, err = n.searchLong(ctx); err != nil {
		return source.Found{}, err
	}
	if err := found.Keep(dir); err != nil {
		n.cfg.Log.Error("a noded that starts again has to search anew", "error", err)
	}
	return found, nil
}

func (n *machine) searchLong(ctx context.Context) (source.Found, error) {
	if _, ok := source.Argument(n.cfg.CommandLine, source.NodeArgument); ok {
		n.want([]nodedoc.Network{{Name: "boot", Match: nodedoc.Match{Link: "any-up"}, DHCP: true}})
	}
	began := time.Now()
	for {
		found, tried, err := n.search(ctx)
		if err == nil {
			for _, t := range tried {
				n.cfg.Log.Info("source not used", "source", t.Source, "why", t.Why)
			}
			n.hub.setWaiting(nil)
			return found, nil
		}
		if !errors.Is(err, source.ErrNone) {
			return source.Found{}, err
		}
		pace := searchFast
		if time.Since(began) > patientFor {
			pace = searchSlow
			n.sayWaiting(tried)
		}
		if err := sleep(ctx, pace); err != nil {
			return source.Found{}, err
		}
	}
}

func (n *machine) search(ctx context.Context) (source.Found, []source.Tried, error) {
	ctx, cancel := context.WithTimeout(ctx, urlDeadline)
	defer cancel()
	n.mu.Lock()
	up := len(n.lan.Addresses) > 0
	n.mu.Unlock()
	return source.Search(ctx, source.Config{
		Root: n.cfg.Root, CommandLine: n.cfg.CommandLine, Machine: identity.Read(n.cfg.Root), HTTP: n.cfg.HTTP, Network: up,
	})
}

func (n *machine) sayWaiting(tried []source.Tried) {
	var lines []string
	for _, t := range tried {
		lines = append(lines, t.String())
	}
	n.hub.setWaiting(lines)
	n.console.Say("waiting", "this machine has no valid node document yet and holds; looked at:")
	for i, line := range lines {
		n.console.Say(fmt.Sprintf("looked at (%d)", i+1), "%s", line)
	}
	m := identity.Read(n.cfg.Root)
	n.console.Say("to do", "put node.json and node.key (from `lith plan -o DIR`) on a FAT or ISO medium labelled %s, or boot with %s=URL; this machine is uuid %s, serial %s, mac %s",
		source.Label, source.NodeArgument, orNone(m.UUID), orNone(m.Serial), orNone(strings.Join(m.MACs, " ")))
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// sendPlan tells PID 1 what the machine is to be, and gives the ramStore's size.
func (n *machine) sendPlan(doc nodedoc.Document) (ramStoreBytes uint64, err error) {
	total := inventory.Read(n.cfg.Root, nil).MemoryBytes
	p := nodeplan.Default(total, doc.Reserve.MemoryMB<<20, doc.RAMStorePercent)
	p.Hostname = doc.Name
	if doc.WatchdogSeconds > 0 {
		p.WatchdogSeconds = uint16(min(max(doc.WatchdogSeconds, 2), 600))
	}
	p.ModulesLate = doc.Modules == "late"
	raw, err := nodeplan.Encode(p)
	if err != nil {
		return p.RAMStoreBytes, err
	}
	if n.cfg.Plan == nil {
		return p.RAMStoreBytes, errors.New("init gave no pipe for it")
	}
	_, err = n.cfg.Plan.Write(raw)
	return p.RAMStoreBytes, errors.Join(err, n.cfg.Plan.Close())
}

// imageInfo is what the image says of itself.
type imageInfo struct {
	Version string `json:"version"`
	Git     string `json:"git"`
	Built   string `json:"built"`
	Kernel  string `json:"kernel"`
}

func readImage(root string) (imageInfo, error) {
	var i imageInfo
	raw, err := os.ReadFile(filepath.Join(root, "etc/mesolith/image.json"))
	if err != nil {
		return i, fmt.Errorf("read image's description: %w", err)
	}
	if err := json.Unmarshal(raw, &i); err != nil {
		return i, fmt.Errorf("read image's description: %w", err)
	}
	return i, nil
}

// floor is the time that it is at least.
func (n *machine) floor(signed time.Time) time.Time {
	if built, err := time.Parse(time.RFC3339, n.image.Built); err == nil && built.After(signed) {
		return built
	}
	return signed
}

func (n *machine) setFloor(signed time.Time) {
	s, err := clock.Floor(n.cfg.Clock, n.floor(signed))
	if err != nil {
		n.cfg.Log.Error("clock is behind", "error", err)
	}
	if s.Source == "floor" {
		n.console.Say("clock", "the machine's clock was %s behind the signed document; set to that, true time unknown until a server answers", s.Offset.Round(time.Second))
	}
	n.clockChanged(s)
}

func (n *machine) clockChanged(s clock.State) {
	n.mu.Lock()
	n.clock = s
	n.mu.Unlock()
	n.hub.change(func(v *noded.Node) {
		v.Clock = &noded.Clock{Synced: s.Synced, Source: s.Source, OffsetNs: int64(s.Offset)}
	})
}

// timeServers are those of the document, "dhcp" replaced by what the lease names.
func (n *machine) timeServers() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, s := range n.found.Document.Time.Servers {
		if s == "dhcp" {
			out = append(out, n.lan.NTP...)
			continue
		}
		out = append(out, s)
	}
	return out
}

func readLine(root, path string) string {
	raw, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

func joinLines(list []string) string { return strings.Join(list, ", ") }
