package packages

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// apt runs the host's own apt for what it is trusted with: fetching a file
// and telling, from its signed index, which versions and checksums exist. It
// changes nothing on the host and needs no root. When the host's index is
// empty or older than the archive, it keeps an index of its own below dir.
type apt struct {
	dir     string // for the own index
	own     bool   // the own index is in use
	refresh sync.Once
	failed  error
	tell    func(format string, args ...any)
}

// stanza is what the index says of one version of a package.
type stanza struct {
	Package, Version, SHA256, Source string
}

func (a *apt) options() []string {
	if !a.own {
		return nil
	}
	return []string{
		"-o", "Dir::State::Lists=" + filepath.Join(a.dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
	}
}

func (a *apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, append(a.options(), args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, lastLine(stderr.String()))
	}
	return stdout.Bytes(), nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// ownIndex fetches the archive's index into the build's own directory, once,
// with the host's sources and keys.
func (a *apt) ownIndex(ctx context.Context) error {
	a.refresh.Do(func() {
		a.tell("fetching the package index (the host's own is left alone)")
		for _, d := range []string{"lists/partial", "cache/archives/partial"} {
			if a.failed = os.MkdirAll(filepath.Join(a.dir, d), 0o755); a.failed != nil {
				return
			}
		}
		a.own = true
		_, a.failed = a.run(ctx, "", "apt-get", "update", "-q")
	})
	return a.failed
}

// versions lists what the index has of a package, newest first.
func (a *apt) versions(ctx context.Context, name string) ([]stanza, error) {
	out, err := a.run(ctx, "", "apt-cache", "show", name)
	if err != nil {
		return nil, err
	}
	return parseStanzas(out), nil
}

func parseStanzas(index []byte) []stanza {
	var all []stanza
	var s stanza
	flush := func() {
		if s.Package != "" {
			all = append(all, s)
		}
		s = stanza{}
	}
	lines := bufio.NewScanner(bytes.NewReader(index))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			flush()
			continue
		}
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "Package":
			s.Package = value
		case "Version":
			s.Version = value
		case "SHA256":
			s.SHA256 = value
		case "Source":
			s.Source, _, _ = strings.Cut(value, " ")
		}
	}
	flush()
	return all
}

// names lists the packages of the index whose name starts with prefix.
func (a *apt) names(ctx context.Context, prefix string) ([]string, error) {
	out, err := a.run(ctx, "", "apt-cache", "pkgnames", prefix)
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(out)), nil
}

// download fetches one package file into dir, which must be empty, and
// returns its path.
func (a *apt) download(ctx context.Context, dir, name, version string) (string, error) {
	if _, err := a.run(ctx, dir, "apt-get", "download", "-q", name+"="+version); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("apt-get download %s left %d files", name, len(found))
	}
	return found[0], nil
}
