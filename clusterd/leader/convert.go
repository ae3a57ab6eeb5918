package leader

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
	"google.golang.org/protobuf/proto"
)

// fromWire turns the protocol's resources into the state's. allocation_info does not
// count.
func fromWire(list []*mesosv1.Resource) (state.Resources, error) {
	out := make([]state.Resource, 0, len(list))
	for _, r := range list {
		one, err := resourceFromWire(r)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	if err := checkVolumes(out); err != nil {
		return nil, err
	}
	return state.NewResources(out...)
}

// checkVolumes refuses what would be lost when resources are added up: a volume is named
// whole, and once.
func checkVolumes(list []state.Resource) error {
	seen := map[string]bool{}
	for _, r := range list {
		id := r.Volume()
		switch key := r.Role + "\x00" + id; {
		case id == "":
		case r.Milli == 0:
			return fmt.Errorf("persistent volume %s has no size: %w", id, state.ErrResourceInvalid)
		case seen[key]:
			return fmt.Errorf("persistent volume %s is there twice: %w", id, state.ErrResourceInvalid)
		default:
			seen[key] = true
		}
	}
	return nil
}

func resourceFromWire(r *mesosv1.Resource) (state.Resource, error) {
	name := r.GetName()
	out := state.Resource{Name: name}
	switch {
	case name == "":
		return out, fmt.Errorf("a resource has no name: %w", state.ErrResourceInvalid)
	case r.GetProviderId() != nil:
		return out, fmt.Errorf("%s belongs to a resource provider, and there are none here: %w", name, state.ErrResourceInvalid)
	}
	d := state.Details{Revocable: r.GetRevocable() != nil}
	var err error
	if d.Reservations, err = reservations(r); err == nil {
		d.Disk, out.Mounting, err = disk(r)
		d.Disk.Shared = r.GetShared() != nil
	}
	if err == nil {
		err = d.Check(name)
	}
	if err != nil {
		return out, err
	}
	out = out.With(d)
	switch r.GetType() {
	case mesosv1.Value_SCALAR:
		milli, ok := state.Thousandths(r.GetScalar().GetValue())
		if !ok || r.Scalar == nil {
			return out, fmt.Errorf("%s: %v is no amount: %w", name, r.GetScalar().GetValue(), state.ErrResourceInvalid)
		}
		if milli == 0 && r.GetScalar().GetValue() > 0 {
			return out, fmt.Errorf("%s: %v is less than 0.001: %w", name, r.GetScalar().GetValue(), state.ErrResourceInvalid)
		}
		if name == state.GPUs && milli%1000 != 0 {
			return out, fmt.Errorf("gpus: %v is not a whole number: %w", r.GetScalar().GetValue(), state.ErrResourceInvalid)
		}
		out.Kind, out.Milli = state.ScalarKind, milli
	case mesosv1.Value_RANGES:
		out.Kind = state.RangesKind
		for _, g := range r.GetRanges().GetRange() {
			out.Ranges = append(out.Ranges, state.Range{Begin: g.GetBegin(), End: g.GetEnd()})
		}
	case mesosv1.Value_SET:
		out.Kind, out.Items = state.SetKind, r.GetSet().GetItem()
	default:
		return out, fmt.Errorf("%s has values of type %s: %w", name, r.GetType(), state.ErrResourceInvalid)
	}
	return out, nil
}

// reservations reads either form of them. Both at once must say the same, as they do where
// resources are listed.
func reservations(r *mesosv1.Resource) ([]state.Reservation, error) {
	old := &mesosv1.Resource_ReservationInfo{Role: proto.String(r.GetRole()), Type: mesosv1.Resource_ReservationInfo_STATIC.Enum()}
	if v := r.GetReservation(); v != nil {
		old = &mesosv1.Resource_ReservationInfo{Role: old.Role, Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Principal: v.Principal, Labels: v.Labels}
	}
	stack := r.GetReservations()
	switch {
	case r.GetReservation() != nil && r.GetRole() == "*":
		return nil, fmt.Errorf("%s is reserved for the role '*': %w", r.GetName(), state.ErrResourceInvalid)
	case len(stack) == 0 && r.GetRole() != "*":
		stack = []*mesosv1.Resource_ReservationInfo{old}
	case r.GetRole() != "*" && stack[len(stack)-1].GetRole() != r.GetRole():
		return nil, fmt.Errorf("%s has the role %q and reservations for %q; leave 'role' out: %w", r.GetName(), r.GetRole(), stack[len(stack)-1].GetRole(), state.ErrResourceInvalid)
	}
	var out []state.Reservation
	for _, v := range stack {
		one := state.Reservation{Role: v.GetRole(), Principal: v.GetPrincipal()}
		switch v.GetType() {
		case mesosv1.Resource_ReservationInfo_STATIC:
			one.Static = true
		case mesosv1.Resource_ReservationInfo_DYNAMIC:
		default:
			return nil, fmt.Errorf("a reservation of %s has no type; write STATIC or DYNAMIC: %w", r.GetName(), state.ErrResourceInvalid)
		}
		if err := checkRole(one.Role); err != nil {
			return nil, fmt.Errorf("reservation of %s: %w: %w", r.GetName(), err, state.ErrResourceInvalid)
		}
		for _, l := range v.GetLabels().GetLabels() {
			one.Labels = append(one.Labels, state.Label{Key: l.GetKey(), Value: l.Value})
		}
		out = append(out, one)
	}
	return out, nil
}

// disk reads which disk a resource is, and how the volume on it is to be seen.
func disk(r *mesosv1.Resource) (out state.DiskInfo, seen *state.Mounting, err error) {
	d := r.GetDisk()
	if d == nil {
		return out, nil, nil
	}
	if source := d.GetSource(); source != nil {
		switch source.GetType() {
		case mesosv1.Resource_DiskInfo_Source_PATH:
			out.Kind, out.Root = state.PathDisk, source.GetPath().GetRoot()
		case mesosv1.Resource_DiskInfo_Source_MOUNT:
			out.Kind, out.Root = state.MountDisk, source.GetMount().GetRoot()
		default:
			return out, nil, fmt.Errorf("%s is a disk of type %s; only PATH and MOUNT are there: %w", r.GetName(), source.GetType(), state.ErrResourceInvalid)
		}
	}
	if d.GetPersistence() == nil {
		if d.GetVolume() != nil {
			return out, nil, fmt.Errorf("%s has a 'volume' and no 'persistence': volumes that end with their task are not resources: %w", r.GetName(), state.ErrResourceInvalid)
		}
		return out, nil, nil
	}
	v := d.GetVolume()
	switch err := checkID("persistence id", d.GetPersistence().GetId()); {
	case err != nil:
		return out, nil, fmt.Errorf("%w: %w", err, state.ErrResourceInvalid)
	case v == nil:
		return out, nil, fmt.Errorf("persistent volume %s has no 'volume', which says where tasks see it: %w", d.GetPersistence().GetId(), state.ErrResourceInvalid)
	case v.HostPath != nil || v.GetSource() != nil || v.GetImage() != nil:
		return out, nil, fmt.Errorf("persistent volume %s: only container_path and mode can be set in 'volume': %w", d.GetPersistence().GetId(), state.ErrResourceInvalid)
	}
	if err := checkContainerPath(v.GetContainerPath()); err != nil {
		return out, nil, fmt.Errorf("persistent volume %s: %w: %w", d.GetPersistence().GetId(), err, state.ErrResourceInvalid)
	}
	out.Volume = d.GetPersistence().GetId()
	return out, &state.Mounting{Path: v.GetContainerPath(), ReadOnly: v.GetMode() == mesosv1.Volume_RO, Principal: d.GetPersistence().GetPrincipal()}, nil
}

// checkContainerPath says what is wrong with a path that something is to be mounted at: it
// is one of the container's, or below the task's sandbox.
func checkContainerPath(p string) error {
	switch {
	case len(p) > maxContainerPath:
		return fmt.Errorf("container_path has %d bytes, at most %d are allowed", len(p), maxContainerPath)
	case strings.ContainsFunc(p, unicode.IsControl) || !utf8.ValidString(p):
		return fmt.Errorf("container_path %q has a control character, or is not UTF-8", p)
	case path.Clean(p) == "." || path.Clean(p) == "/":
		return fmt.Errorf("container_path %q is no place for a volume", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return fmt.Errorf("container_path %q leaves where it begins with '..'", p)
		}
	}
	return nil
}

const maxContainerPath = 1024

// refined leaves the stack of reservations of ToWire's resources, which is what frameworks
// get that have the capability RESERVATION_REFINEMENT.
func refined(list []*mesosv1.Resource) []*mesosv1.Resource {
	for _, r := range list {
		r.Role, r.Reservation = nil, nil
	}
	return list
}

// unrefined leaves the old form of ToWire's resources, for all other frameworks: they are
// shown nothing that is reserved by more than one step.
func unrefined(list []*mesosv1.Resource) []*mesosv1.Resource {
	for _, r := range list {
		r.Reservations = nil
	}
	return list
}

// ToWire is the protocol's form of resources, allocated to a role unless it is empty. What
// is reserved in one step is so in both forms, as in Mesos' own lists.
func ToWire(rs state.Resources, allocated string) []*mesosv1.Resource {
	out := make([]*mesosv1.Resource, 0, len(rs))
	for _, r := range rs {
		w := &mesosv1.Resource{Name: proto.String(r.Name), Role: proto.String("*")}
		if r.Role != "" {
			tellDetails(w, r)
		}
		if r.Detail != "" {
			w.Disk = diskToWire(r)
		}
		if r.Shared() {
			w.Shared = &mesosv1.Resource_SharedInfo{}
		}
		if r.Revocable() {
			w.Revocable = &mesosv1.Resource_RevocableInfo{}
		}
		if allocated != "" {
			w.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String(allocated)}
		}
		switch r.Kind {
		case state.ScalarKind:
			w.Type = mesosv1.Value_SCALAR.Enum()
			w.Scalar = &mesosv1.Value_Scalar{Value: proto.Float64(float64(r.Milli) / 1000)}
		case state.RangesKind:
			w.Type, w.Ranges = mesosv1.Value_RANGES.Enum(), &mesosv1.Value_Ranges{}
			for _, g := range r.Ranges {
				w.Ranges.Range = append(w.Ranges.Range, &mesosv1.Value_Range{Begin: proto.Uint64(g.Begin), End: proto.Uint64(g.End)})
			}
		case state.SetKind:
			w.Type, w.Set = mesosv1.Value_SET.Enum(), &mesosv1.Value_Set{Item: r.Items}
		}
		out = append(out, w)
	}
	return out
}

// tellDetails words for whom a resource is reserved.
func tellDetails(w *mesosv1.Resource, r state.Resource) {
	stack := r.Details().Reservations
	for _, v := range stack {
		one := &mesosv1.Resource_ReservationInfo{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String(v.Role)}
		if v.Static {
			one.Type = mesosv1.Resource_ReservationInfo_STATIC.Enum()
		}
		if v.Principal != "" {
			one.Principal = proto.String(v.Principal)
		}
		for _, l := range v.Labels {
			if one.Labels == nil {
				one.Labels = &mesosv1.Labels{}
			}
			one.Labels.Labels = append(one.Labels.Labels, &mesosv1.Label{Key: proto.String(l.Key), Value: l.Value})
		}
		w.Reservations = append(w.Reservations, one)
	}
	if len(stack) > 1 {
		w.Role = nil
		return
	}
	w.Role = proto.String(r.Role)
	if one := w.Reservations[0]; one.GetType() == mesosv1.Resource_ReservationInfo_DYNAMIC {
		w.Reservation = &mesosv1.Resource_ReservationInfo{Principal: one.Principal, Labels: one.Labels}
	}
}

func diskToWire(r state.Resource) *mesosv1.Resource_DiskInfo {
	d := r.Details().Disk
	if d == (state.DiskInfo{}) {
		return nil
	}
	out := &mesosv1.Resource_DiskInfo{}
	switch d.Kind {
	case state.PathDisk:
		out.Source = &mesosv1.Resource_DiskInfo_Source{Type: mesosv1.Resource_DiskInfo_Source_PATH.Enum(), Path: &mesosv1.Resource_DiskInfo_Source_Path{Root: proto.String(d.Root)}}
	case state.MountDisk:
		out.Source = &mesosv1.Resource_DiskInfo_Source{Type: mesosv1.Resource_DiskInfo_Source_MOUNT.Enum(), Mount: &mesosv1.Resource_DiskInfo_Source_Mount{Root: proto.String(d.Root)}}
	}
	if d.Volume == "" {
		return out
	}
	out.Persistence = &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String(d.Volume)}
	if m := r.Mounting; m != nil {
		if m.Principal != "" {
			out.Persistence.Principal = proto.String(m.Principal)
		}
		out.Volume = &mesosv1.Volume{ContainerPath: proto.String(m.Path), Mode: mesosv1.Volume_RW.Enum()}
		if m.ReadOnly {
			out.Volume.Mode = mesosv1.Volume_RO.Enum()
		}
	}
	return out
}
