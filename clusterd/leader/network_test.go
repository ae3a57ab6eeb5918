package leader

import (
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

func TestWhoUsesTheNodesNetwork(t *testing.T) {
	plain := &mesosv1.TaskInfo{}
	own := &mesosv1.TaskInfo{Container: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{}}}}
	docker := func(n mesosv1.ContainerInfo_DockerInfo_Network) *mesosv1.TaskInfo {
		return &mesosv1.TaskInfo{Container: &mesosv1.ContainerInfo{Docker: &mesosv1.ContainerInfo_DockerInfo{Network: n.Enum()}}}
	}
	for name, c := range map[string]struct {
		cfg  Config
		role string
		task *mesosv1.TaskInfo
		want bool
	}{
		"by default nobody":               {Config{}, "web", plain, false},
		"a role that may":                 {Config{HostNetworkRoles: []string{"web"}}, "web", plain, true},
		"another role":                    {Config{HostNetworkRoles: []string{"web"}}, "db", plain, false},
		"every role":                      {Config{HostNetworkRoles: []string{"*"}}, "db", plain, true},
		"who asks for a network gets one": {Config{HostNetworkRoles: []string{"*"}}, "db", own, false},
		"docker's bridge is one":          {Config{HostNetworkRoles: []string{"*"}}, "db", docker(mesosv1.ContainerInfo_DockerInfo_BRIDGE), false},
		"docker's host is none":           {Config{HostNetworkRoles: []string{"*"}}, "db", docker(mesosv1.ContainerInfo_DockerInfo_HOST), true},
		"where there is no other":         {Config{HostNetworkAlways: true}, "db", own, true},
	} {
		if got := (&Leader{cfg: c.cfg}).hostNetwork(c.role, c.task.GetContainer()); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
