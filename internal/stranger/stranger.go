// Package stranger builds programs that nobody here wrote, for tests: those of mesos-go,
// and small ones around its packages, from the module proxy, each in a module of its own,
// so that they are no part of ours; and it fetches what programs in JavaScript need from
// npm's registry, the versions and hashes of package-lock.json.
package stranger

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	// version is the newest release of mesos-go.
	version = "v0.0.11"
	// zooKeeper is the client that its detector of masters uses, which never had a release.
	zooKeeper = "github.com/samuel/go-zookeeper v0.0.0-20190923202752-2cc03de413da"
)

// prometheus is the last version with what the example scheduler calls.
const prometheus = "github.com/prometheus/client_golang v0.9.4"

// Build builds api/v1/cmd/NAME of mesos-go below dir, which must be empty, and gives the
// program's path. Some of them need a C compiler.
func Build(ctx context.Context, dir, name string) (program string, err error) {
	return build(ctx, dir, name, "github.com/mesos/mesos-go/api/v1/cmd/"+name)
}

// BuildMain builds the program whose one file is source, which imports packages of
// mesos-go, below dir, which must be empty, and gives its path.
func BuildMain(ctx context.Context, dir, source string) (program string, err error) {
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
		return "", err
	}
	return build(ctx, dir, "stranger", ".")
}

func build(ctx context.Context, dir, name, target string) (program string, err error) {
	mod := "module stranger\n\ngo 1.26\n\nrequire (\n\tgithub.com/mesos/mesos-go " + version + "\n\t" + zooKeeper + "\n\t" + prometheus + "\n)\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return "", err
	}
	program = filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, target)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "CGO_ENABLED=1")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s of mesos-go %s: %w\n%s", name, version, err, said)
	}
	return program, nil
}

//go:embed javascript/package.json javascript/package-lock.json
var javascript embed.FS

// JavaScript makes dir, which must be empty, a folder from which node runs programs that
// require mesos-framework: node and npm must be there (image/setup.sh sees to it). No
// package runs a script of its own meanwhile.
func JavaScript(ctx context.Context, dir string) error {
	for _, name := range []string{"package.json", "package-lock.json"} {
		raw, err := javascript.ReadFile("javascript/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--no-update-notifier")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch the packages of javascript/package-lock.json: %w\n%s", err, said)
	}
	return nil
}
