package spec

import (
	"fmt"
	"path"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// Bounds of what a task asks for in container.volumes.
const (
	maxVolumes = 100
	maxSecrets = 256 << 10 // bytes of all secrets of a task, which are nobody's memory
)

// Asked is a volume of container.volumes: one of Host, InSandbox and Secret.
type Asked struct {
	Path      string // in the container; not absolute: below the sandbox
	ReadOnly  bool
	Host      string // a path of the node's
	Allowed   string // the prefix that allows it
	InSandbox string // a path below the sandbox
	Secret    []byte // what a file holds; nil: it is none
}

// AskedVolumes reads container.volumes, and refuses by name what cannot be had. hostPaths
// are the prefixes of paths of the node's that tasks may have; taken are the task's other
// volumes.
func AskedVolumes(c *mesosv1.ContainerInfo, hostPaths []string, taken []Volume) ([]Asked, error) {
	if n := len(c.GetVolumes()); n > maxVolumes {
		return nil, fmt.Errorf("%w: container.volumes has %d entries, at most %d are made; use fewer", ErrInvalidTask, n, maxVolumes)
	}
	var out []Asked
	places := make([]string, 0, len(taken)+len(c.GetVolumes()))
	for _, v := range taken {
		places = append(places, v.Path)
	}
	secrets := 0
	for i, v := range c.GetVolumes() {
		a, err := asked(v, hostPaths)
		if err == nil {
			err = freePlace(a.Path, places)
		}
		if secrets += len(a.Secret); err == nil && secrets > maxSecrets {
			err = fmt.Errorf("the task's secrets have more than %d bytes; they are kept in memory", maxSecrets)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: container.volumes[%d]: %w", ErrInvalidTask, i, err)
		}
		places = append(places, a.Path)
		out = append(out, a)
	}
	return out, nil
}

// VolumePlace gives a container_path in its shortest form.
func VolumePlace(containerPath string) (string, error) {
	p := path.Clean(containerPath)
	if containerPath == "" || strings.ContainsRune(p, 0) || p == ".." || strings.HasPrefix(p, "../") || p == "." || p == "/" {
		return "", fmt.Errorf("the container_path %q is no place for a volume", containerPath)
	}
	return p, nil
}

func freePlace(p string, places []string) error {
	for _, o := range places {
		if o == p || strings.HasPrefix(p, o+"/") || strings.HasPrefix(o, p+"/") {
			return fmt.Errorf("volumes at %q and %q would cover each other; give them places of their own", o, p)
		}
	}
	return nil
}

func asked(v *mesosv1.Volume, hostPaths []string) (a Asked, err error) {
	if a.Path, err = VolumePlace(v.GetContainerPath()); err != nil {
		return a, err
	}
	a.ReadOnly = v.GetMode() == mesosv1.Volume_RO
	if v.GetImage() != nil {
		return a, fmt.Errorf("an image cannot be a volume here; copy what the task needs into its own image")
	}
	s := v.GetSource()
	if s == nil {
		return a, a.host(v.GetHostPath(), hostPaths)
	}
	if v.GetHostPath() != "" {
		return a, fmt.Errorf("it has both a host_path and a source; leave one out")
	}
	switch s.GetType() {
	case mesosv1.Volume_Source_HOST_PATH:
		switch s.GetHostPath().GetMountPropagation().GetMode() {
		case mesosv1.MountPropagation_UNKNOWN:
		default:
			return a, fmt.Errorf("source.host_path.mount_propagation is not to be had: mounts stay where they are made; leave it out")
		}
		return a, a.host(s.GetHostPath().GetPath(), hostPaths)
	case mesosv1.Volume_Source_SANDBOX_PATH:
		switch s.GetSandboxPath().GetType() {
		case mesosv1.Volume_Source_SandboxPath_SELF:
			return a, a.inSandbox(s.GetSandboxPath().GetPath())
		case mesosv1.Volume_Source_SandboxPath_PARENT:
			return a, fmt.Errorf("source.sandbox_path.type PARENT is about a task group, and this task is in none; use SELF")
		}
		return a, fmt.Errorf("source.sandbox_path.type is missing; write SELF")
	case mesosv1.Volume_Source_SECRET:
		if s.GetSecret().GetType() != mesosv1.Secret_VALUE {
			return a, fmt.Errorf("source.secret refers to a secret by name, and there is no store of those; give it by value")
		}
		a.Secret = s.GetSecret().GetValue().GetData()
		if a.Secret == nil {
			a.Secret = []byte{}
		}
		return a, nil
	case mesosv1.Volume_Source_DOCKER_VOLUME:
		return a, fmt.Errorf("source.docker_volume (driver %q) takes a plugin of Docker's, which nodes do not have; use a persistent volume", s.GetDockerVolume().GetDriver())
	case mesosv1.Volume_Source_CSI_VOLUME:
		return a, fmt.Errorf("source.csi_volume takes a CSI plugin, which nodes do not have; use a persistent volume")
	}
	return a, fmt.Errorf("source.type %s is not known; HOST_PATH, SANDBOX_PATH and SECRET are", s.GetType())
}

// host is for a path of the node's, or one that is not absolute: that is in the sandbox.
func (a *Asked) host(p string, hostPaths []string) error {
	if p == "" {
		return fmt.Errorf("it has neither a host_path nor a source")
	}
	if !path.IsAbs(p) {
		return a.inSandbox(p)
	}
	if strings.ContainsRune(p, 0) {
		return fmt.Errorf("the host_path %q has a NUL byte", p)
	}
	a.Host = path.Clean(p)
	for _, prefix := range hostPaths {
		if a.Host == prefix || strings.HasPrefix(a.Host, strings.TrimSuffix(prefix, "/")+"/") {
			a.Allowed = prefix
			return nil
		}
	}
	return fmt.Errorf("the host_path %s is not given to tasks; allow it by tasks.hostPaths in the cluster file, or use a persistent volume", a.Host)
}

func (a *Asked) inSandbox(p string) error {
	c := path.Clean(p)
	if p == "" || path.IsAbs(p) || c == "." || c == ".." || strings.HasPrefix(c, "../") || strings.ContainsRune(p, 0) {
		return fmt.Errorf("the path %q is not one below the sandbox", p)
	}
	a.InSandbox = c
	return nil
}
