// Package stranger builds programs that nobody here wrote, for tests: those of mesos-go,
// from the module proxy, each in a module of its own, so that they are no part of ours.
package stranger

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// version is the newest release of mesos-go.
const version = "v0.0.11"

// Build builds api/v1/cmd/NAME of mesos-go below dir, which must be empty, and gives the
// program's path. Some of them need a C compiler.
func Build(ctx context.Context, dir, name string) (program string, err error) {
	mod := "module stranger\n\ngo 1.26\n\nrequire github.com/mesos/mesos-go " + version + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return "", err
	}
	program = filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/mesos/mesos-go/api/v1/cmd/"+name)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "CGO_ENABLED=1")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s of mesos-go %s: %w\n%s", name, version, err, said)
	}
	return program, nil
}
