package spec

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

func volume(at string, s *mesosv1.Volume_Source) *mesosv1.Volume {
	return &mesosv1.Volume{ContainerPath: &at, Mode: mesosv1.Volume_RW.Enum(), Source: s}
}

func hostPath(at, from string, mode mesosv1.Volume_Mode) *mesosv1.Volume {
	return &mesosv1.Volume{ContainerPath: &at, HostPath: &from, Mode: &mode}
}

func secretOf(value string) *mesosv1.Volume_Source {
	return &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: &mesosv1.Secret{
		Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte(value)},
	}}
}

func sandboxPath(p string, kind mesosv1.Volume_Source_SandboxPath_Type) *mesosv1.Volume_Source {
	return &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{Type: &kind, Path: &p}}
}

func sourceOf(kind mesosv1.Volume_Source_Type) *mesosv1.Volume_Source {
	return &mesosv1.Volume_Source{Type: &kind, HostPath: &mesosv1.Volume_Source_HostPath{Path: proto.String("/srv/x")}}
}

func TestAskedVolumes(t *testing.T) {
	got, err := AskedVolumes(&mesosv1.ContainerInfo{Volumes: []*mesosv1.Volume{
		hostPath("a/", "/srv/data/../x", mesosv1.Volume_RO),
		hostPath("/b", "own/dir", mesosv1.Volume_RW),
		volume("c", sourceOf(mesosv1.Volume_Source_HOST_PATH)),
		volume("d/e", sandboxPath("./f", mesosv1.Volume_Source_SandboxPath_SELF)),
		volume("/etc/key", secretOf("k")),
		volume("empty", secretOf("")),
	}}, []string{"/opt", "/srv"}, []Volume{{Path: "kept"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Asked{
		{Path: "a", ReadOnly: true, Host: "/srv/x", Allowed: "/srv"},
		{Path: "/b", InSandbox: "own/dir"},
		{Path: "c", Host: "/srv/x", Allowed: "/srv"},
		{Path: "d/e", InSandbox: "f"},
		{Path: "/etc/key", Secret: []byte("k")},
		{Path: "empty", Secret: []byte{}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What cannot be had is refused, with what to do.
func TestVolumesThatAreRefused(t *testing.T) {
	propagated := sourceOf(mesosv1.Volume_Source_HOST_PATH)
	propagated.HostPath.MountPropagation = &mesosv1.MountPropagation{Mode: mesosv1.MountPropagation_BIDIRECTIONAL.Enum()}
	both := hostPath("a", "/srv/x", mesosv1.Volume_RW)
	both.Source = secretOf("x")
	many := make([]*mesosv1.Volume, maxVolumes+1)
	for name, test := range map[string]struct {
		list []*mesosv1.Volume
		want string
	}{
		"not allowed":    {[]*mesosv1.Volume{hostPath("a", "/etc", mesosv1.Volume_RO)}, "tasks.hostPaths"},
		"beside allowed": {[]*mesosv1.Volume{hostPath("a", "/srvx", mesosv1.Volume_RO)}, "tasks.hostPaths"},
		"out of allowed": {[]*mesosv1.Volume{hostPath("a", "/srv/../etc", mesosv1.Volume_RO)}, "tasks.hostPaths"},
		"out of sandbox": {[]*mesosv1.Volume{hostPath("a", "b/../../c", mesosv1.Volume_RW)}, "below the sandbox"},
		"sandbox itself": {[]*mesosv1.Volume{volume("a", sandboxPath(".", mesosv1.Volume_Source_SandboxPath_SELF))}, "below the sandbox"},
		"parent":         {[]*mesosv1.Volume{volume("a", sandboxPath("b", mesosv1.Volume_Source_SandboxPath_PARENT))}, "task group"},
		"unknown type":   {[]*mesosv1.Volume{volume("a", sandboxPath("b", mesosv1.Volume_Source_SandboxPath_UNKNOWN))}, "write SELF"},
		"reference":      {[]*mesosv1.Volume{volume("a", &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: &mesosv1.Secret{Type: mesosv1.Secret_REFERENCE.Enum()}})}, "by value"},
		"large secrets":  {[]*mesosv1.Volume{volume("a", secretOf(strings.Repeat("x", maxSecrets))), volume("b", secretOf("x"))}, "more than 262144 bytes"},
		"docker":         {[]*mesosv1.Volume{volume("a", sourceOf(mesosv1.Volume_Source_DOCKER_VOLUME))}, "source.docker_volume"},
		"csi":            {[]*mesosv1.Volume{volume("a", sourceOf(mesosv1.Volume_Source_CSI_VOLUME))}, "source.csi_volume"},
		"no type":        {[]*mesosv1.Volume{volume("a", &mesosv1.Volume_Source{})}, "is not known"},
		"propagation":    {[]*mesosv1.Volume{volume("a", propagated)}, "mount_propagation"},
		"two sources":    {[]*mesosv1.Volume{both}, "both a host_path and a source"},
		"nothing":        {[]*mesosv1.Volume{volume("a", nil)}, "neither a host_path nor a source"},
		"image":          {[]*mesosv1.Volume{{ContainerPath: proto.String("a"), Image: &mesosv1.Image{}}}, "an image cannot be"},
		"no place":       {[]*mesosv1.Volume{volume("../a", secretOf("x"))}, "no place for a volume"},
		"one place":      {[]*mesosv1.Volume{volume("a", secretOf("x")), volume("a/b", secretOf("x"))}, "cover each other"},
		"a taken place":  {[]*mesosv1.Volume{volume("kept/a", secretOf("x"))}, "cover each other"},
		"too many":       {many, "at most 100"},
	} {
		_, err := AskedVolumes(&mesosv1.ContainerInfo{Volumes: test.list}, []string{"/srv"}, []Volume{{Path: "kept"}})
		if !errors.Is(err, ErrInvalidTask) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
