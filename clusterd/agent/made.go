package agent

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent/journal"
	"github.com/mesolith/mesolith/clusterd/task"
	wire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// What is made of a node's resources, the log says. The agent remembers it for a cluster
// that forgets everything, and sees to it that destroyed volumes are removed. A volume is
// removed only if it was told of before and is not any more: one that nobody ever spoke of
// may be of a cluster that is gone, and is left alone.

// made is what the leader said last, and what is still to be done about it.
type made struct {
	resources []*journal.Resource
	removed   []*journal.Resource // volumes not yet known to be gone
	asked     bool                // the keeper is removing them
}

// onMade takes what the leader says was made of the resources here.
func (a *Agent) onMade(list []*wire.MadeResource) error {
	next := made{removed: a.made.removed}
	now := map[string]uint64{}
	for _, m := range list {
		next.resources = append(next.resources, &journal.Resource{Resource: m.GetResource(), Serial: m.GetSerial()})
		if v := volumeOf(m.GetResource()); v != nil {
			now[nameOf(v)] = m.GetSerial()
		}
	}
	for _, m := range a.made.resources {
		v := volumeOf(m.GetResource())
		if v == nil || a.removing(v) {
			continue
		}
		if serial, stays := now[nameOf(v)]; !stays || serial != m.GetSerial() {
			next.removed = append(next.removed[:len(next.removed):len(next.removed)], m)
		}
	}
	if same(next.resources, a.made.resources) && len(next.removed) == len(a.made.removed) {
		return nil
	}
	if err := a.journal.Append(next.record()); err != nil {
		return err
	}
	next.asked = a.made.asked
	a.made = next
	a.removeVolumes()
	return nil
}

func same(a, b []*journal.Resource) bool {
	return slices.EqualFunc(a, b, func(x, y *journal.Resource) bool {
		return x.GetSerial() == y.GetSerial() && bytes.Equal(x.GetResource(), y.GetResource())
	})
}

func (m made) record() *journal.Record {
	return &journal.Record{Body: &journal.Record_Made{Made: &journal.Made{Resources: m.resources, Removed: m.removed}}}
}

// removing says whether a volume of this name is on its way out: nothing may be written to
// a new one before that is over.
func (a *Agent) removing(v *keeper.Volume) bool {
	for _, m := range a.made.removed {
		if old := volumeOf(m.GetResource()); old != nil && nameOf(old) == nameOf(v) {
			return true
		}
	}
	return false
}

// removeVolumes has the keeper remove what is to be removed.
func (a *Agent) removeVolumes() {
	if len(a.made.removed) == 0 || a.keeper == nil || a.made.asked {
		return
	}
	ask := &keeper.RemoveVolumes{}
	for _, m := range a.made.removed {
		ask.Volumes = append(ask.Volumes, volumeOf(m.GetResource()))
	}
	a.made.asked = true
	a.keeper.send(&keeper.Request{Body: &keeper.Request_RemoveVolumes{RemoveVolumes: ask}})
}

// onRemoved writes down that volumes are gone, and begins what waited for that.
func (a *Agent) onRemoved(gone []*keeper.Volume) error {
	next := made{resources: a.made.resources}
	is := map[string]bool{}
	for _, v := range gone {
		is[nameOf(v)] = true
		a.log.Info("persistent volume removed", "role", v.GetRole(), "volume", v.GetId())
	}
	for _, m := range a.made.removed {
		if !is[nameOf(volumeOf(m.GetResource()))] {
			next.removed = append(next.removed, m)
		}
	}
	if err := a.journal.Append(next.record()); err != nil {
		return err
	}
	a.made = next
	a.removeVolumes()
	return nil
}

// waits says whether a task cannot begin yet, because a volume that it uses has one of the
// same name before it that is not gone.
func (a *Agent) waits(t *task.Task) bool {
	if len(a.made.removed) == 0 {
		return false
	}
	for _, r := range t.Info.GetResources() {
		if v := volume(r); v != nil && a.removing(v) {
			return true
		}
	}
	return false
}

// volumeOf is the persistent volume that an encoded resource is; nil: it is none.
func volumeOf(raw []byte) *keeper.Volume {
	r := &mesosv1.Resource{}
	if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, r) != nil {
		return nil
	}
	return volume(r)
}

func volume(r *mesosv1.Resource) *keeper.Volume {
	id := r.GetDisk().GetPersistence().GetId()
	if id == "" {
		return nil
	}
	v := &keeper.Volume{
		Role: r.GetRole(), Id: id, ContainerPath: r.GetDisk().GetVolume().GetContainerPath(), ReadOnly: r.GetDisk().GetVolume().GetMode() == mesosv1.Volume_RO,
		Bytes: uint64(math.Round(r.GetScalar().GetValue() * (1 << 20))),
	}
	if n := len(r.GetReservations()); n > 0 {
		v.Role = r.GetReservations()[n-1].GetRole()
	}
	if s := r.GetDisk().GetSource(); s != nil {
		v.Root = s.GetPath().GetRoot() + s.GetMount().GetRoot() // it is one of them
	}
	return v
}

func nameOf(v *keeper.Volume) string {
	return fmt.Sprintf("%q %q %q", v.GetRole(), v.GetId(), v.GetRoot())
}
