// Package seccomp gives the system call filter of every container: Docker's default
// profile (deny by default) for the capabilities that the container has. The profile
// depends on the running kernel's version, which is why it is not in isolation/spec.
package seccomp

import (
	"fmt"

	profiles "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// For gives the filter for a container with these capabilities.
func For(capabilities []string) (*specs.LinuxSeccomp, error) {
	filter, err := profiles.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}})
	if err != nil {
		return nil, fmt.Errorf("make seccomp filter: %w", err)
	}
	return filter, nil
}
