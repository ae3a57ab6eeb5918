package secrets

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

func secret() *mesosv1.Secret {
	return &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("hidden")}}
}

func TestWithout(t *testing.T) {
	task := &mesosv1.TaskInfo{
		Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, AgentId: &mesosv1.AgentID{Value: proto.String("a")},
		Limits: map[string]*mesosv1.Value_Scalar{"mem": {Value: proto.Float64(1)}},
		Command: &mesosv1.CommandInfo{Environment: &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{
			{Name: proto.String("PLAIN"), Value: proto.String("seen")},
			{Name: proto.String("S"), Type: mesosv1.Environment_Variable_SECRET.Enum(), Secret: secret()},
		}}},
		Container: &mesosv1.ContainerInfo{
			Type: mesosv1.ContainerInfo_MESOS.Enum(), Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{
				Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: proto.String("i"), Config: secret()},
			}},
			Volumes: []*mesosv1.Volume{{
				ContainerPath: proto.String("p"), Mode: mesosv1.Volume_RO.Enum(),
				Source: &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: secret()},
			}},
		},
	}
	before, err := proto.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	out, err := proto.Marshal(Without(task))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte("hidden")) || !bytes.Contains(out, []byte("seen")) {
		t.Errorf("it tells %q", out)
	}
	if after, err := proto.Marshal(task); err != nil || bytes.Count(after, []byte("hidden")) != 3 || len(after) != len(before) {
		t.Errorf("the message itself was changed: %q, %v", after, err)
	}
	plain := &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum()}
	if Without(plain) != plain || Without((*mesosv1.ContainerInfo)(nil)) != nil {
		t.Error("what has no secrets is not given as it is")
	}
}
