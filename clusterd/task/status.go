package task

import (
	"fmt"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

func encode(t Task, now time.Time, uuid [16]byte, s mesosv1.TaskState, src mesosv1.TaskStatus_Source, r *mesosv1.TaskStatus_Reason, msg string) []byte {
	st := &mesosv1.TaskStatus{
		TaskId:          t.Info.GetTaskId(),
		State:           s.Enum(),
		Source:          src.Enum(),
		Reason:          r,
		AgentId:         &mesosv1.AgentID{Value: proto.String(t.AgentID)},
		ExecutorId:      &mesosv1.ExecutorID{Value: proto.String(t.Info.GetTaskId().GetValue())},
		Timestamp:       proto.Float64(float64(now.UnixNano()) / 1e9),
		Uuid:            uuid[:],
		ContainerStatus: containerStatus(t),
	}
	sayChecked(t, st)
	if msg != "" {
		st.Message = proto.String(msg)
	}
	if name := limitedResource[st.GetReason()]; r != nil && name != "" {
		st.Limitation = &mesosv1.TaskResourceLimitation{Resources: resourceOf(t.Info, name)}
	}
	if t.Execution.ID != "" {
		st.ExecutorId.Value = proto.String(t.Execution.ID)
	}
	if c := t.Container; t.Executes() && c.GetPhase() == keeper.Container_ENDED {
		st.Labels = &mesosv1.Labels{Labels: []*mesosv1.Label{{
			Key: proto.String(WaitStatusLabel), Value: proto.String(fmt.Sprint(c.GetWaitStatus())),
		}}}
	}
	return encoded(t, st)
}

func encoded(t Task, st *mesosv1.TaskStatus) []byte {
	out, err := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(st)
	if err != nil {
		// Only strings that are not UTF-8 could get here, and proto2 does not check them.
		panic(fmt.Sprintf("encode status of %s: %v", t.ContainerID, err))
	}
	return out
}

// limitedResource names the resource that a limitation is about.
var limitedResource = map[mesosv1.TaskStatus_Reason]string{
	mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY: "mem",
	mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK:   "disk",
}

func resourceOf(info *mesosv1.TaskInfo, name string) []*mesosv1.Resource {
	for _, r := range info.GetResources() {
		if r.GetName() == name {
			return []*mesosv1.Resource{r}
		}
	}
	return nil
}

func containerStatus(t Task) *mesosv1.ContainerStatus {
	cs := &mesosv1.ContainerStatus{ContainerId: &mesosv1.ContainerID{Value: proto.String(t.ContainerID)}}
	switch {
	case t.Executed():
		cs.ContainerId.Value = proto.String(t.Execution.Container)
	case t.Inside():
		cs.ContainerId.Parent = &mesosv1.ContainerID{Value: proto.String(t.Execution.Container)}
	}
	c := t.Container
	if c.GetPid() != 0 {
		cs.ExecutorPid = proto.Uint32(uint32(c.GetPid()))
	}
	ni := &mesosv1.NetworkInfo{}
	for _, ip := range c.GetIpAddresses() {
		ni.IpAddresses = append(ni.IpAddresses, &mesosv1.NetworkInfo_IPAddress{Protocol: protocolOf(ip), IpAddress: proto.String(ip)})
	}
	if len(ni.IpAddresses) == 0 {
		// Clients read network_infos[0].ip_addresses[0] unguarded.
		ni.IpAddresses = []*mesosv1.NetworkInfo_IPAddress{{Protocol: protocolOf(t.AgentAddress), IpAddress: proto.String(t.AgentAddress)}}
	}
	if n := c.GetNetwork(); n != "" {
		ni.Name = proto.String(n)
	}
	for _, m := range c.GetPortMappings() {
		ni.PortMappings = append(ni.PortMappings, &mesosv1.NetworkInfo_PortMapping{
			HostPort: proto.Uint32(m.GetHostPort()), ContainerPort: proto.Uint32(m.GetContainerPort()), Protocol: proto.String(m.GetProtocol()),
		})
	}
	cs.NetworkInfos = []*mesosv1.NetworkInfo{ni}
	return cs
}

func protocolOf(ip string) *mesosv1.NetworkInfo_Protocol {
	for _, c := range ip {
		if c == ':' {
			return mesosv1.NetworkInfo_IPv6.Enum()
		}
	}
	return mesosv1.NetworkInfo_IPv4.Enum()
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
