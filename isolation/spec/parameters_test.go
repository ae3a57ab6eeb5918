package spec

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
)

// docker is a container with parameters, each KEY VALUE.
func docker(pairs ...[2]string) *mesosv1.ContainerInfo {
	c := &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_DOCKER.Enum(), Docker: &mesosv1.ContainerInfo_DockerInfo{Image: proto.String("x")}}
	for _, p := range pairs {
		c.Docker.Parameters = append(c.Docker.Parameters, &mesosv1.Parameter{Key: proto.String(p[0]), Value: proto.String(p[1])})
	}
	return c
}

// What has a meaning here is done; of the rest the task is told.
func TestDockerParameters(t *testing.T) {
	in := base(&mesosv1.TaskInfo{
		Command: &mesosv1.CommandInfo{Shell: proto.Bool(false), Arguments: []string{"a"}},
		Container: docker([2]string{"entrypoint", "/e"}, [2]string{"ulimit", "nofile=10:20"}, [2]string{"ulimit", "core=-1"}, [2]string{"cpu-shares", "256"},
			[2]string{"volume-driver", "local"}, [2]string{"security-opt", "no-new-privileges:true"},
			[2]string{"memory-swap", "-1"}, [2]string{"net-alias", "web"}, [2]string{"net-alias", "www"}, [2]string{"gpus", "all"}),
	})
	in.Image = imagestore.Config{Entrypoint: []string{"/image"}, Cmd: []string{"c"}}
	if err := Supported(in.Task); err != nil {
		t.Fatal(err)
	}
	s, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/e", "a"}, s.Process.Args); diff != "" {
		t.Error(diff)
	}
	for _, want := range []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_CORE", Soft: noLimit, Hard: noLimit}} {
		if !slices.Contains(s.Process.Rlimits, want) {
			t.Errorf("%+v is not among %+v", want, s.Process.Rlimits)
		}
	}
	if got := s.Linux.Resources.Unified["cpu.weight"]; got != "25" {
		t.Errorf("cpu.weight %s of 256 shares, want 25", got)
	}
	if got, want := IgnoredParameters(in.Task.Container), "ignored of container.docker.parameters: memory-swap (tasks have no swap), net-alias (the network gives no names but host names), gpus (tasks have no devices of the node)"; got != want {
		t.Errorf("it says %q", got)
	}
	// Shares take from a task and give it nothing.
	in.Task.Container = docker([2]string{"cpu-shares", "4096"}, [2]string{"ulimit", "nofile=9999999"})
	if s, err = Build(in); err != nil || s.Linux.Resources.Unified["cpu.weight"] != "50" {
		t.Errorf("cpu.weight %v of 4096 shares for half a CPU, %v", s.Linux.Resources.Unified, err)
	}
	if most := (specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: maxOpenFiles, Hard: maxOpenFiles}); !slices.Contains(s.Process.Rlimits, most) {
		t.Errorf("more open files than a task may have: %+v", s.Process.Rlimits)
	}
	in.Task.Container.Type = mesosv1.ContainerInfo_MESOS.Enum()
	in.Task.Container.Docker.Parameters[0].Key = proto.String("privileged")
	if err := Supported(in.Task); err != nil {
		t.Errorf("parameters of a container that is not Docker's: %v", err)
	}
}

func TestParametersThatAreRefused(t *testing.T) {
	for _, test := range []struct{ key, value, want string }{
		{"privileged", "true", `"privileged" is not known`},
		{"cap-add", "SYS_ADMIN", `"cap-add" is not known`},
		{"", "", "is not known"},
		{"volume-driver", "rexray", "plugin"},
		{"cpu-shares", "many", "1024 for one CPU"},
		{"cpu-shares", "0", "1024 for one CPU"},
		{"ulimit", "nofile", "NAME=SOFT[:HARD]"},
		{"ulimit", "unknown=1", "NAME=SOFT[:HARD]"},
		{"ulimit", "nofile=2:1", "NAME=SOFT[:HARD]"},
		{"ulimit", "nofile=-2", "NAME=SOFT[:HARD]"},
	} {
		task := shell("x")
		task.Container = docker([2]string{test.key, test.value})
		if err := Supported(task); !errors.Is(err, ErrInvalidTask) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s=%s: %v", test.key, test.value, err)
		}
	}
	task := shell("a line")
	task.Container = docker([2]string{"entrypoint", "/e"})
	if err := Supported(task); !errors.Is(err, ErrInvalidTask) || !strings.Contains(err.Error(), "set command.shell to false") {
		t.Errorf("an entrypoint and a shell line: %v", err)
	}
}
