package client

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// pool is what is left of an offer.
type pool struct {
	scalars map[string]float64
	ports   []*mesosv1.Value_Range
	volumes map[string]*mesosv1.Resource // persistent ones, by id
	role    string
}

func newPool(o *mesosv1.Offer) *pool {
	p := &pool{scalars: map[string]float64{}, volumes: map[string]*mesosv1.Resource{}, role: o.GetAllocationInfo().GetRole()}
	for _, r := range o.GetResources() {
		if id := r.GetDisk().GetPersistence().GetId(); id != "" {
			p.volumes[id] = r
			continue
		}
		if len(r.GetReservations()) > 0 || r.GetRole() != "*" || r.GetRevocable() != nil || r.GetShared() != nil || r.GetDisk() != nil {
			continue // only plain resources are used here
		}
		if r.GetName() == "ports" {
			for _, span := range r.GetRanges().GetRange() {
				p.ports = append(p.ports, proto.Clone(span).(*mesosv1.Value_Range))
			}
			continue
		}
		p.scalars[r.GetName()] += r.GetScalar().GetValue()
	}
	return p
}

// slack is half of the unit that resources are counted in.
const slack = 0.0005

// place takes a task's resources out of the pool if they are there.
func (p *pool) place(t Task, o *mesosv1.Offer) (*mesosv1.TaskInfo, []uint64, bool) {
	if t.Hostname != "" && t.Hostname != o.GetHostname() {
		return nil, nil, false
	}
	want := []struct {
		name  string
		value float64
	}{{"cpus", t.CPUs}, {"mem", t.MemMB}, {"disk", t.DiskMB}}
	for _, w := range want {
		if p.scalars[w.name]+slack < w.value {
			return nil, nil, false
		}
	}
	for _, v := range t.Volumes {
		if p.volumes[v.ID] == nil {
			return nil, nil, false
		}
	}
	ports, ok := p.takePorts(t.Ports)
	if !ok {
		return nil, nil, false
	}
	info := &mesosv1.TaskInfo{
		Name: proto.String(t.Name), TaskId: &mesosv1.TaskID{Value: proto.String(t.ID)}, AgentId: o.GetAgentId(),
		Container: t.Container, Labels: t.Labels, KillPolicy: t.Grace,
		HealthCheck: t.HealthCheck, Check: t.Check,
	}
	if t.Name == "" {
		info.Name = proto.String(t.ID)
	}
	for _, w := range want {
		if w.value > 0 {
			p.scalars[w.name] -= w.value
			info.Resources = append(info.Resources, p.scalar(w.name, w.value))
		}
	}
	for _, v := range t.Volumes {
		info.Resources = append(info.Resources, p.volume(v))
	}
	for name, most := range t.Limits {
		if info.Limits == nil {
			info.Limits = map[string]*mesosv1.Value_Scalar{}
		}
		info.Limits[name] = &mesosv1.Value_Scalar{Value: proto.Float64(most)}
	}
	if len(ports) > 0 {
		info.Resources = append(info.Resources, p.portsResource(ports))
	}
	info.Command = withPorts(t.Command, ports)
	return info, ports, true
}

func (p *pool) scalar(name string, value float64) *mesosv1.Resource {
	return &mesosv1.Resource{
		Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(value)},
		AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String(p.role)},
	}
}

// volume takes a volume out of the pool, as its task wants to see it; one that is shared is
// there for the next task, too.
func (p *pool) volume(v Volume) *mesosv1.Resource {
	r := proto.Clone(p.volumes[v.ID]).(*mesosv1.Resource)
	if r.GetShared() == nil {
		delete(p.volumes, v.ID)
	}
	seen := r.GetDisk().GetVolume()
	if v.Path != "" {
		seen.ContainerPath = proto.String(v.Path)
	}
	if v.ReadOnly {
		seen.Mode = mesosv1.Volume_RO.Enum()
	}
	return r
}

func (p *pool) portsResource(ports []uint64) *mesosv1.Resource {
	r := &mesosv1.Resource{
		Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: &mesosv1.Value_Ranges{},
		AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String(p.role)},
	}
	for _, n := range ports {
		r.Ranges.Range = append(r.Ranges.Range, &mesosv1.Value_Range{Begin: proto.Uint64(n), End: proto.Uint64(n)})
	}
	return r
}

// takePorts takes the lowest ports that are left.
func (p *pool) takePorts(n int) ([]uint64, bool) {
	left := uint64(0)
	for _, r := range p.ports {
		left += r.GetEnd() - r.GetBegin() + 1
	}
	if left < uint64(n) {
		return nil, false
	}
	ports := make([]uint64, 0, n)
	for len(ports) < n {
		r := p.ports[0]
		ports = append(ports, r.GetBegin())
		if r.GetBegin() == r.GetEnd() {
			p.ports = p.ports[1:]
			continue
		}
		r.Begin = proto.Uint64(r.GetBegin() + 1)
	}
	return ports, true
}

// withPorts adds PORT0, PORT1, … to a command's environment.
func withPorts(c *mesosv1.CommandInfo, ports []uint64) *mesosv1.CommandInfo {
	if len(ports) == 0 {
		return c
	}
	c = proto.Clone(c).(*mesosv1.CommandInfo)
	if c.Environment == nil {
		c.Environment = &mesosv1.Environment{}
	}
	for i, n := range ports {
		c.Environment.Variables = append(c.Environment.Variables, &mesosv1.Environment_Variable{
			Name: proto.String(fmt.Sprintf("PORT%d", i)), Value: proto.String(fmt.Sprint(n)),
		})
	}
	return c
}
