package run

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// dockerLaunch is a launch of a shell with parameters for Docker; without an image, which
// plain processes do not need.
func dockerLaunch(id string, parameters ...*mesosv1.Parameter) *keeper.Launch {
	l := launchOf(id, "")
	task := &mesosv1.TaskInfo{}
	if err := proto.Unmarshal(l.TaskInfo, task); err != nil {
		panic(err)
	}
	task.Command = &mesosv1.CommandInfo{Shell: proto.Bool(false), Arguments: []string{"-c", "echo begun; sleep 1000"}}
	task.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_DOCKER.Enum(), Docker: &mesosv1.ContainerInfo_DockerInfo{Image: proto.String(""), Parameters: parameters}}
	var err error
	if l.TaskInfo, err = proto.Marshal(task); err != nil {
		panic(err)
	}
	return l
}

func parameter(key, value string) *mesosv1.Parameter {
	return &mesosv1.Parameter{Key: &key, Value: &value}
}

// A task with parameters runs by them, and says which it does without, also to the next
// keeper.
func TestParametersOfDocker(t *testing.T) {
	h := newHouse(t)
	h.launch(dockerLaunch("c", parameter("entrypoint", "/bin/sh"), parameter("device", "/dev/kvm")))
	says := func(c *keeper.Container) bool {
		return running(c) && strings.Contains(c.GetMessage(), "device (tasks have no devices of the node)")
	}
	h.until("c", says)
	h.close()
	h.open()
	h.until("c", says)
	h.launch(dockerLaunch("refused", parameter("cap-add", "ALL")))
	if c := h.until("refused", gone); c.GetFailure() != keeper.Container_INVALID_TASK || !strings.Contains(c.GetMessage(), `"cap-add" is not known`) {
		t.Errorf("refused: %v", c)
	}
}
