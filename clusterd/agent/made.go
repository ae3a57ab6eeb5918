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
	next := made{removed: a.made.removed, asked: a.made.asked}
	now := map[string]bool{}
	for _, m := range list {
		r := &journal.Resource{Resource: m.GetResource(), Serial: m.GetSerial()}
		next.resources = append(next.resources, r)
		if v := volumeOf(r); v != nil {
			now[nameOf(v)] = true
		}
	}
	for _, m := range a.made.resources {
		if v := volumeOf(m); v != nil && !now[nameOf(v)] {
			next.removed = append(next.removed[:len(next.removed):len(next.removed)], m)
		}
	}
	if same(next.resources, a.made.resources) && len(next.removed) == len(a.made.removed) {
		return nil
	}
	if err := a.journal.Append(next.record()); err != nil {
		return err
	}
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

// removeVolumes has the keeper remove what is to be removed.
func (a *Agent) removeVolumes() {
	if len(a.made.removed) == 0 || a.keeper == nil || a.made.asked {
		return
	}
	ask := &keeper.RemoveVolumes{}
	for _, m := range a.made.removed {
		ask.Volumes = append(ask.Volumes, volumeOf(m))
	}
	a.made.asked = true
	a.keeper.send(&keeper.Request{Body: &keeper.Request_RemoveVolumes{RemoveVolumes: ask}})
}

// onRemoved writes down that volumes are gone.
func (a *Agent) onRemoved(gone []*keeper.Volume) error {
	next := made{resources: a.made.resources}
	is := map[string]bool{}
	for _, v := range gone {
		is[nameOf(v)] = true
		a.log.Info("persistent volume removed", "role", v.GetRole(), "volume", v.GetId(), "serial", v.GetSerial())
	}
	for _, m := range a.made.removed {
		if !is[nameOf(volumeOf(m))] {
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

// volumesOf are the volumes that a task uses, as the leader told of them; ok is false where
// one cannot be used now: it was not told of as the task names it, or another container of
// a task that nobody waits for any more still uses it.
func (a *Agent) volumesOf(t *task.Task) (out []*keeper.Volume, ok bool) {
	var alone []*keeper.Volume
	for _, r := range t.Info.GetResources() {
		v := volume(r)
		if v == nil {
			continue
		}
		told := a.told(v)
		if told == nil {
			return nil, false
		}
		v.Serial = told.GetSerial()
		out = append(out, v)
		if r.GetShared() == nil {
			alone = append(alone, v)
		}
	}
	if len(alone) == 0 {
		return out, true
	}
	for _, other := range a.tasks {
		if other.ContainerID == t.ContainerID || other.Terminal() || other.Tombstone || !other.Known {
			continue
		}
		for _, r := range other.Info.GetResources() {
			if v := volume(r); v != nil && slices.ContainsFunc(alone, func(o *keeper.Volume) bool { return o.GetRole() == v.GetRole() && o.GetId() == v.GetId() }) {
				return nil, false
			}
		}
	}
	return out, true
}

// told is the volume of this name and size among those that the leader told of.
func (a *Agent) told(v *keeper.Volume) *keeper.Volume {
	for _, m := range a.made.resources {
		if o := volumeOf(m); o != nil && o.GetRole() == v.GetRole() && o.GetId() == v.GetId() && o.GetRoot() == v.GetRoot() && o.GetBytes() == v.GetBytes() {
			return o
		}
	}
	return nil
}

// volumeOf is the persistent volume that a made resource is; nil: it is none.
func volumeOf(m *journal.Resource) *keeper.Volume {
	r := &mesosv1.Resource{}
	if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(m.GetResource(), r) != nil {
		return nil
	}
	v := volume(r)
	if v != nil {
		v.Serial = m.GetSerial()
	}
	return v
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

// nameOf tells a volume from all others, also from one of its name that was before it.
func nameOf(v *keeper.Volume) string {
	return fmt.Sprintf("%q %q %q %d", v.GetRole(), v.GetId(), v.GetRoot(), v.GetSerial())
}
