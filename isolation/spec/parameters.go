package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
)

// Parameters is what container.docker.parameters say that has a meaning here. They are words
// for Docker's command line, which nobody runs: frameworks that were written for it use a few
// of them.
type Parameters struct {
	Entrypoint string // in place of the image's; empty: none
	CPUMillis  uint64 // of cpu-shares; 0: none
	Rlimits    []*mesosv1.RLimitInfo_RLimit
	Ignored    []string // what was asked for and is not done, for people
}

// ignored says why a parameter is not acted on.
var ignored = map[string]string{
	"memory-swap": "tasks have no swap",
	"net-alias":   "the network gives no names but host names",
	"runtime":     "there is one",
	"device":      "tasks have no devices of the node",
	"gpus":        "tasks have no devices of the node",
}

// sharesPerCPU is what Docker gives a container that has one CPU.
const sharesPerCPU = 1024

// DockerParameters reads the parameters of a container of the kind DOCKER, and refuses by
// name those that are not known: the task would be another one without them.
func DockerParameters(c *mesosv1.ContainerInfo) (p Parameters, err error) {
	if c.GetType() != mesosv1.ContainerInfo_DOCKER {
		return p, nil
	}
	for _, one := range c.GetDocker().GetParameters() {
		if err := p.add(one.GetKey(), one.GetValue()); err != nil {
			return p, fmt.Errorf("%w: container.docker.parameters: %w", ErrInvalidTask, err)
		}
	}
	return p, nil
}

func (p *Parameters) add(key, value string) error {
	why, known := ignored[key]
	switch {
	case known:
		p.ignore(key, why)
	case key == "entrypoint":
		p.Entrypoint = value
	case key == "volume-driver" && value == "local":
	case key == "volume-driver":
		return fmt.Errorf("volume-driver=%.80s takes a plugin of Docker's, which nodes do not have; use a persistent volume", value)
	case key == "security-opt" && strings.HasPrefix(value, "no-new-privileges") && !strings.HasSuffix(value, "false"):
	case key == "security-opt":
		p.ignore(key, "every task has the same seccomp filter and no new privileges")
	case key == "cpu-shares":
		shares, err := strconv.ParseUint(value, 10, 32)
		if err != nil || shares == 0 {
			return fmt.Errorf("cpu-shares=%.80q is not a number of shares; write 1024 for one CPU", value)
		}
		p.CPUMillis = max(shares*millisPerCPU/sharesPerCPU, 1)
	case key == "ulimit":
		r, err := ulimit(value)
		if err != nil {
			return err
		}
		p.Rlimits = append(p.Rlimits, r)
	default:
		return fmt.Errorf("%.80q is not known here; leave it out, or ask for the same by fields of TaskInfo (known are cpu-shares, device, entrypoint, gpus, memory-swap, net-alias, runtime, security-opt, ulimit and volume-driver)", key)
	}
	return nil
}

func (p *Parameters) ignore(key, why string) {
	if line := key + " (" + why + ")"; !slices.Contains(p.Ignored, line) {
		p.Ignored = append(p.Ignored, line)
	}
}

// ulimit reads NAME=SOFT[:HARD], where -1 is no limit.
func ulimit(value string) (*mesosv1.RLimitInfo_RLimit, error) {
	wrong := fmt.Errorf("ulimit=%.80q is not NAME=SOFT[:HARD], as nofile=1024:2048", value)
	name, limits, ok := strings.Cut(value, "=")
	number, known := mesosv1.RLimitInfo_RLimit_Type_value["RLMT_"+strings.ToUpper(name)]
	if !ok || !known || number == 0 {
		return nil, wrong
	}
	soft, hard, two := strings.Cut(limits, ":")
	if !two {
		hard = soft
	}
	r := &mesosv1.RLimitInfo_RLimit{Type: mesosv1.RLimitInfo_RLimit_Type(number).Enum()}
	for _, part := range []struct {
		text string
		to   **uint64
	}{{soft, &r.Soft}, {hard, &r.Hard}} {
		n, err := strconv.ParseInt(part.text, 10, 64)
		if err != nil || n < -1 {
			return nil, wrong
		}
		v := uint64(n)
		*part.to = &v
	}
	if r.GetSoft() > r.GetHard() {
		return nil, wrong
	}
	return r, nil
}

// IgnoredParameters says, for people, what a task asks Docker for and does not get; empty:
// nothing.
func IgnoredParameters(c *mesosv1.ContainerInfo) string {
	p, err := DockerParameters(c)
	if err != nil || len(p.Ignored) == 0 {
		return ""
	}
	return "ignored of container.docker.parameters: " + strings.Join(p.Ignored, ", ")
}

// Program gives a task's program and its arguments. An entrypoint among its parameters is
// begun with the command's value and arguments behind it, as Docker would; without one Argv
// says what.
func Program(t *mesosv1.TaskInfo, image imagestore.Config) ([]string, error) {
	p, err := DockerParameters(t.GetContainer())
	if err != nil {
		return nil, err
	}
	c := t.GetCommand()
	switch {
	case p.Entrypoint == "":
		return Argv(c, image)
	case c.GetShell() && c.GetValue() != "":
		return nil, fmt.Errorf("%w: container.docker.parameters has an entrypoint, and command.value is a line for a shell; set command.shell to false, or leave the entrypoint out", ErrInvalidTask)
	}
	argv := []string{p.Entrypoint}
	if c.GetValue() != "" {
		argv = append(argv, c.GetValue())
	}
	return append(argv, c.GetArguments()...), nil
}
