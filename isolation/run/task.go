package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/spec"
	"github.com/mesolith/mesolith/isolation/stdio"
)

func (j *Job) decode() error {
	j.Task = &mesosv1.TaskInfo{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(j.Launch.GetTaskInfo(), j.Task); err != nil {
		return fmt.Errorf("%w: its TaskInfo cannot be read: %w", spec.ErrInvalidTask, err)
	}
	return nil
}

// sayIgnored says what a running container does without, unless there is worse to say: it may
// be about to end for a limit.
func (c *container) sayIgnored(j *Job) {
	if c.rec.Container.GetLimitation() == keeper.Container_NO_LIMITATION {
		c.rec.Container.Message = spec.IgnoredParameters(j.Task.GetContainer())
	}
}

// hostname is a container's own name: the front of its id, as a DNS label.
func hostname(id string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(id) {
		if b.Len() == 63 {
			break
		}
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') || r == '-' {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String(), "-")
}

// resolveUser finds the task's user in the passwd of its own root, else of the node.
func (k *Keeper) resolveUser(j *Job) {
	if j.Launch.GetWithin() != "" {
		var err error
		if j.User, err = k.runtime.RunsAs(k.parentJob(j.Launch)); err != nil {
			k.log.Warn("the user of a nested container is not known", "container", j.ID, "error", err)
		}
		return
	}
	j.User = spec.ResolveUser(j.Launch.GetUser(), j.Launch.GetUserId(), readInRoot(j.Rootfs, "etc/passwd"), readInRoot(j.Rootfs, "etc/group"), j.sandboxInside())
}

func (j *Job) sandboxInside() string {
	return spec.Input{HasImage: j.HasImage, Sandbox: j.Paths.sandbox}.SandboxInside()
}

const maxPasswd = 1 << 20

// readInRoot reads a small file below a root that a stranger made.
func readInRoot(root, name string) []byte {
	if root == "" {
		root = "/"
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil
	}
	defer r.Close()
	info, err := r.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxPasswd {
		return nil
	}
	raw, err := r.ReadFile(name)
	if err != nil {
		return nil
	}
	return raw
}

// owner gives the host ids of a container's user.
func (k *Keeper) owner(j *Job) (uid, gid int) {
	if !k.runtime.IDs() {
		if os.Geteuid() != 0 {
			return os.Geteuid(), os.Getegid()
		}
		uid, gid = processUser(j)
		return uid, gid
	}
	return int(spec.HostID(j.FirstID, j.User.UID)), int(spec.HostID(j.FirstID, j.User.GID))
}

// makeSandbox makes the sandbox and the link "latest" beside it.
func makeSandbox(workDir string, l *keeper.Launch, uid, gid int) error {
	sandbox := sandboxPath(workDir, l)
	if err := os.MkdirAll(sandbox, 0o755); err != nil {
		return fmt.Errorf("make sandbox: %w", err)
	}
	if err := os.Chmod(sandbox, 0o750); err != nil {
		return fmt.Errorf("make sandbox: %w", err)
	}
	if l.GetPod() {
		// The sandboxes of all inside are made in it by path: nobody else may write there. Its
		// own program needs nothing.
		if err := os.Chmod(sandbox, 0o755); err != nil {
			return fmt.Errorf("make sandbox: %w", err)
		}
	} else if os.Geteuid() == 0 {
		if err := os.Chown(sandbox, uid, gid); err != nil {
			return fmt.Errorf("give sandbox to the task: %w", err)
		}
	}
	if l.GetNested() {
		return nil
	}
	latest := filepath.Join(filepath.Dir(sandbox), "latest")
	tmp := latest + "." + l.GetContainerId()
	err := errors.Join(os.RemoveAll(tmp), os.Symlink(l.GetContainerId(), tmp), os.Rename(tmp, latest))
	if err != nil {
		return fmt.Errorf("link sandbox as the latest: %w", err)
	}
	return nil
}

// prepare makes everything that a container is made of, before any of its processes.
func (k *Keeper) prepare(ctx context.Context, c *container, j *Job) error {
	if err := k.change(c, false, func(c *container) { c.rec.Container.Phase = keeper.Container_PREPARING }); err != nil {
		return err
	}
	if err := k.runtime.Prepare(ctx, j); err != nil {
		return err
	}
	fault.After(fault.Rootfs, j.ID)
	k.resolveUser(j)
	uid, gid := k.owner(j)
	if err := makeSandbox(k.cfg.WorkDir, j.Launch, uid, gid); err != nil {
		return err
	}
	if err := stdio.Make(j.Paths.pipes, uid, gid); err != nil {
		return err
	}
	if err := k.makeVolumes(j); err != nil {
		return err
	}
	fault.After(fault.Mkdir, j.ID)
	return k.writeEtc(j, nil)
}

// portMappings are those that the task asks for by name, else its ports one to one. Only
// ports of its own resources can be led to it: all others are somebody else's.
func portMappings(j *Job) ([]*keeper.PortMapping, error) {
	var out []*keeper.PortMapping
	add := func(host, container uint32, protocol string) {
		for _, p := range []string{"tcp", "udp"} {
			if protocol == "" || strings.EqualFold(protocol, p) {
				out = append(out, &keeper.PortMapping{HostPort: host, ContainerPort: container, Protocol: p})
			}
		}
	}
	var asked []portMapping
	for _, n := range j.Task.GetContainer().GetNetworkInfos() {
		for _, m := range n.GetPortMappings() {
			asked = append(asked, m)
		}
	}
	for _, m := range j.Task.GetContainer().GetDocker().GetPortMappings() {
		asked = append(asked, m)
	}
	for _, m := range asked {
		before := len(out)
		add(m.GetHostPort(), m.GetContainerPort(), m.GetProtocol())
		switch {
		case len(out) == before:
			return nil, fmt.Errorf("%w: port_mappings: protocol %q; write tcp or udp, or leave it out for both", spec.ErrInvalidTask, m.GetProtocol())
		case len(out) > maxPorts:
			return nil, fmt.Errorf("%w: port_mappings: more than %d; map fewer", spec.ErrInvalidTask, maxPorts/2)
		case m.GetContainerPort() == 0 || m.GetContainerPort() > 65535:
			return nil, fmt.Errorf("%w: port_mappings: container_port %d is no port", spec.ErrInvalidTask, m.GetContainerPort())
		case !j.hasPort(m.GetHostPort()):
			return nil, fmt.Errorf("%w: port_mappings: host_port %d is not among the task's ports; add it to its ports resource, out of the offer", spec.ErrInvalidTask, m.GetHostPort())
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, r := range j.Launch.GetPorts() {
		for p := r.GetBegin(); p <= r.GetEnd() && p <= 65535 && len(out) < maxPorts; p++ {
			add(p, p, "")
		}
	}
	return out, nil
}

// portMapping is either kind of the schema's.
type portMapping interface {
	GetHostPort() uint32
	GetContainerPort() uint32
	GetProtocol() string
}

func (j *Job) hasPort(p uint32) bool {
	for _, r := range j.Launch.GetPorts() {
		if r.GetBegin() <= p && p <= r.GetEnd() {
			return p > 0 && p <= 65535
		}
	}
	return false
}

const maxPorts = 4096

// writeEtc writes the files that are mounted over the container's /etc. They keep their
// inodes, so that what is written after the mount is seen inside.
func (k *Keeper) writeEtc(j *Job, ips []string) error {
	if !k.runtime.IDs() {
		return nil
	}
	if err := os.MkdirAll(j.Paths.etc, 0o711); err != nil {
		return fmt.Errorf("make directory of /etc files: %w", err)
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	switch {
	case j.HostNetwork:
		ips = []string{"127.0.1.1"}
		if ip := k.settings().GetAdvertiseIp(); ip != "" {
			ips[0] = ip
		}
	case ips == nil:
		ips = []string{}
	}
	for _, ip := range ips {
		hosts += ip + "\t" + j.Hostname + "\n"
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the node's resolv.conf: %w", err)
	}
	files := map[string][]byte{"hostname": []byte(j.Hostname + "\n"), "hosts": []byte(hosts), "resolv.conf": resolv}
	if j.User.Line != "" {
		files["passwd"] = append(readInRoot(j.Rootfs, "etc/passwd"), j.User.Line...)
	}
	for name, body := range files {
		path := filepath.Join(j.Paths.etc, name)
		if err := os.WriteFile(path, body, 0o644); err != nil {
			return fmt.Errorf("write the container's %s: %w", name, err)
		}
		if err := os.Chown(path, int(j.FirstID), int(j.FirstID)); err != nil {
			return fmt.Errorf("write the container's %s: %w", name, err)
		}
	}
	return nil
}
