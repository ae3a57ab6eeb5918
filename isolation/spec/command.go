package spec

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
)

// ErrInvalidTask says that no container can be made of what the task asks for.
var ErrInvalidTask = errors.New("invalid task")

// Argv gives the program and its arguments by Mesos' table: a shell line runs by sh -c;
// a value without shell is the program, with the arguments as its whole argv; no value
// takes the image's entry point, with the task's arguments in place of its Cmd.
func Argv(c *mesosv1.CommandInfo, image imagestore.Config) ([]string, error) {
	switch {
	case c.GetShell() && c.GetValue() != "":
		return []string{"/bin/sh", "-c", c.GetValue()}, nil
	case c.GetShell():
		if c != nil && c.Shell != nil && c.Value == nil && len(c.GetArguments()) == 0 && len(image.Entrypoint)+len(image.Cmd) == 0 {
			return nil, fmt.Errorf("%w: command.shell is true and command.value is empty: write the shell line into command.value", ErrInvalidTask)
		}
	case c.GetValue() != "":
		argv := []string{c.GetValue()}
		if len(c.GetArguments()) > 0 {
			argv = append(argv, c.GetArguments()[1:]...)
		}
		return argv, nil
	}
	args := c.GetArguments()
	switch {
	case len(image.Entrypoint) > 0 && len(args) > 0:
		return slices.Concat(image.Entrypoint, args), nil
	case len(image.Entrypoint) > 0:
		return slices.Concat(image.Entrypoint, image.Cmd), nil
	case len(args) > 0:
		return slices.Clone(args), nil
	case len(image.Cmd) > 0:
		return slices.Clone(image.Cmd), nil
	}
	return nil, fmt.Errorf("%w: neither the task nor its image says what to run: set command.value or give the image an entry point", ErrInvalidTask)
}

// Argv0 is the name the program sees as its own, where it differs from its path.
func Argv0(c *mesosv1.CommandInfo) string {
	if !c.GetShell() && c.GetValue() != "" && len(c.GetArguments()) > 0 {
		return c.GetArguments()[0]
	}
	return ""
}

// Env merges the environments: the image's, then what Mesos gives every task, then the
// task's own; a later one wins.
func Env(c *mesosv1.CommandInfo, image imagestore.Config, given []Variable) ([]string, error) {
	var out []string
	at := map[string]int{}
	set := func(name, value string) {
		if i, ok := at[name]; ok {
			out[i] = name + "=" + value
			return
		}
		at[name] = len(out)
		out = append(out, name+"="+value)
	}
	for _, e := range image.Env {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" {
			set(name, value)
		}
	}
	for _, v := range given {
		set(v.Name, v.Value)
	}
	for _, v := range c.GetEnvironment().GetVariables() {
		value, err := variable(v)
		if err != nil {
			return nil, err
		}
		set(v.GetName(), value)
	}
	if _, ok := at["PATH"]; !ok {
		set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	for _, e := range out {
		if strings.ContainsRune(e, 0) || strings.HasPrefix(e, "=") {
			return nil, fmt.Errorf("%w: environment variable %q has an empty name or a NUL byte", ErrInvalidTask, e)
		}
	}
	return out, nil
}

// Variable is one that every task gets.
type Variable struct{ Name, Value string }

func variable(v *mesosv1.Environment_Variable) (string, error) {
	if v.GetType() != mesosv1.Environment_Variable_SECRET {
		return v.GetValue(), nil
	}
	if v.GetSecret().GetType() == mesosv1.Secret_VALUE {
		return string(v.GetSecret().GetValue().GetData()), nil
	}
	return "", fmt.Errorf("%w: environment variable %s refers to a secret by name; only secrets given by value can be resolved", ErrInvalidTask, v.GetName())
}

// ImageReference is the image that a task asks for; empty: none.
func ImageReference(t *mesosv1.TaskInfo) (reference string, cached bool, auth []byte, err error) {
	c := t.GetContainer()
	switch {
	case c == nil:
		return "", true, nil, nil
	case c.GetType() == mesosv1.ContainerInfo_DOCKER && c.GetDocker() != nil:
		return c.GetDocker().GetImage(), !c.GetDocker().GetForcePullImage(), nil, nil
	case c.GetMesos().GetImage() == nil:
		return "", true, nil, nil
	}
	image := c.GetMesos().GetImage()
	if image.GetType() != mesosv1.Image_DOCKER {
		return "", true, nil, fmt.Errorf("%w: container.mesos.image.type is %s; only DOCKER (Docker and OCI images) is known", ErrInvalidTask, image.GetType())
	}
	if s := image.GetDocker().GetConfig(); s != nil {
		if s.GetType() != mesosv1.Secret_VALUE {
			return "", true, nil, fmt.Errorf("%w: container.mesos.image.docker.config refers to a secret by name; give it by value", ErrInvalidTask)
		}
		auth = s.GetValue().GetData()
	}
	if image.GetDocker().GetName() == "" {
		return "", true, nil, fmt.Errorf("%w: container.mesos.image.docker.name is empty", ErrInvalidTask)
	}
	return image.GetDocker().GetName(), image.GetCached(), auth, nil
}

// Supported refuses by name what this keeper cannot do yet, before anything is made.
func Supported(t *mesosv1.TaskInfo) error {
	if t.GetCommand() == nil && t.GetContainer() == nil {
		return fmt.Errorf("%w: it has neither a command nor a container", ErrInvalidTask)
	}
	c := t.GetContainer()
	if c.GetDocker().GetPrivileged() {
		return fmt.Errorf("%w: container.docker.privileged is not allowed: tasks run in user namespaces", ErrInvalidTask)
	}
	if p, err := DockerParameters(c); err != nil {
		return err
	} else if p.Entrypoint != "" {
		if _, err := Program(t, imagestore.Config{}); err != nil {
			return err
		}
	}
	if c.GetTtyInfo() != nil {
		return fmt.Errorf("%w: container.tty_info is not supported yet", ErrInvalidTask)
	}
	for _, n := range c.GetNetworkInfos() {
		if n.GetName() != "" && n.GetName() != DefaultNetwork {
			return fmt.Errorf("%w: network %q does not exist; the cluster's own is called %q (or leave the name out)", ErrInvalidTask, n.GetName(), DefaultNetwork)
		}
	}
	return nil
}

// DefaultNetwork is the name of the cluster-wide network of tasks: what a task may ask for
// and what its status says.
const DefaultNetwork = "mesolith"
