package leader

import (
	"fmt"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
)

// conversion is what an operation makes of resources: it takes some and gives others, which
// are the same to their agent.
type conversion struct{ take, give state.Resources }

// converter is who wants resources converted.
type converter struct {
	principal string             // empty: nobody in particular, who may name anybody
	role      string             // that the resources are offered to; empty: an operator
	caps      state.Capabilities // of a framework
}

// conversionOf checks an operation by itself, not against what there is. The sentences go
// to who asked for it.
func conversionOf(op *mesosv1.Offer_Operation, by converter) (conversion, error) {
	switch op.GetType() {
	case mesosv1.Offer_Operation_RESERVE:
		return reserve(op.GetReserve(), by)
	case mesosv1.Offer_Operation_UNRESERVE:
		return unreserve(op.GetUnreserve().GetResources(), by)
	case mesosv1.Offer_Operation_CREATE:
		return createVolumes(op.GetCreate().GetVolumes(), by)
	case mesosv1.Offer_Operation_DESTROY:
		c, err := volumesOf(op.GetDestroy().GetVolumes(), by)
		return conversion{take: c.give, give: c.take}, err
	case mesosv1.Offer_Operation_GROW_VOLUME:
		return growVolume(op.GetGrowVolume(), by)
	case mesosv1.Offer_Operation_SHRINK_VOLUME:
		return shrinkVolume(op.GetShrinkVolume(), by)
	}
	return conversion{}, fmt.Errorf("operations of type %s are not supported: there are no resource providers here", op.GetType())
}

// asked reads the resources of an operation.
func asked(list []*mesosv1.Resource, by converter) (state.Resources, error) {
	for _, r := range list {
		if a := r.GetAllocationInfo(); a != nil && by.role != "" && a.GetRole() != by.role {
			return nil, fmt.Errorf("%s is allocated to the role %q, its offers are of the role %q", r.GetName(), a.GetRole(), by.role)
		}
	}
	rs, err := fromWire(list)
	switch {
	case err != nil:
		return nil, fmt.Errorf("invalid resources: %w", err)
	case len(rs) == 0:
		return nil, fmt.Errorf("the operation names no resources")
	}
	for _, r := range rs {
		if by.role != "" && r.Shared() && !by.caps.Has(state.CapSharedResources) {
			return nil, fmt.Errorf("volume %s is shared, and the framework is not SHARED_RESOURCES capable", r.Volume())
		}
		if by.role != "" && r.Refined() && !by.caps.Has(state.CapReservationRefinement) {
			return nil, fmt.Errorf("%s is reserved in several steps, and the framework is not RESERVATION_REFINEMENT capable", r.Name)
		}
	}
	return rs, nil
}

// below says whether a role is another one or a part of it.
func below(role, top string) bool { return role == top || strings.HasPrefix(role, top+"/") }

func reserve(op *mesosv1.Offer_Operation_Reserve, by converter) (c conversion, err error) {
	if c.give, err = asked(op.GetResources(), by); err != nil {
		return c, err
	}
	var before []state.Resource
	for _, r := range c.give {
		if err := mayReserve(r, by); err != nil {
			return c, err
		}
		before = append(before, unreserved(r))
	}
	if len(op.GetSource()) > 0 {
		return rereserve(op, c, by)
	}
	c.take, err = state.NewResources(before...)
	return c, err
}

// rereserve makes one reservation of another, as only operators may.
func rereserve(op *mesosv1.Offer_Operation_Reserve, c conversion, by converter) (conversion, error) {
	if by.role != "" {
		return c, fmt.Errorf("'source' is for operators; UNRESERVE first")
	}
	var err error
	if c.take, err = asked(op.GetSource(), by); err != nil {
		return c, fmt.Errorf("'source': %w", err)
	}
	was, err := c.take.Bases()
	if err != nil {
		return c, err
	}
	is, err := c.give.Bases()
	switch {
	case err != nil:
		return c, err
	case len(c.take.Volumes()) > 0:
		return c, fmt.Errorf("'source' holds a persistent volume; destroy it first")
	case !was.Hold(is) || !is.Hold(was):
		return c, fmt.Errorf("'source' is %s and 'resources' are %s, which is not as much", c.take, c.give)
	}
	return c, nil
}

// unreserved is a resource without its innermost reservation.
func unreserved(r state.Resource) state.Resource {
	d := r.Details()
	d.Reservations = d.Reservations[:len(d.Reservations)-1]
	return r.With(d)
}

// innermost is the reservation that a resource is under, if somebody made it.
func innermost(r state.Resource) (v state.Reservation, made bool) {
	stack := r.Details().Reservations
	if len(stack) == 0 || stack[len(stack)-1].Static {
		return v, false
	}
	return stack[len(stack)-1], true
}

func mayReserve(r state.Resource, by converter) error {
	v, made := innermost(r)
	switch {
	case !made:
		return fmt.Errorf("resource %s is not dynamically reserved", state.Resources{r})
	case r.Volume() != "":
		return fmt.Errorf("a persistent volume %s must already be reserved", r.Volume())
	case by.principal != "" && v.Principal == "":
		return fmt.Errorf("a reserve operation was attempted by principal '%s', but there is a reserved resource in the request with no principal set", by.principal)
	case by.principal != "" && v.Principal != by.principal:
		return fmt.Errorf("a reserve operation was attempted by authenticated principal '%s', which does not match a reserved resource in the request with principal '%s'", by.principal, v.Principal)
	case by.role != "" && !below(r.Role, by.role):
		return fmt.Errorf("a reserve operation was attempted for a resource allocated to role '%s', but the reservation is for the role '%s'", by.role, r.Role)
	}
	return nil
}

func unreserve(list []*mesosv1.Resource, by converter) (c conversion, err error) {
	if c.take, err = asked(list, by); err != nil {
		return c, err
	}
	var after []state.Resource
	for _, r := range c.take {
		switch _, made := innermost(r); {
		case !made:
			return c, fmt.Errorf("resource %s is not dynamically reserved", state.Resources{r})
		case r.Volume() != "":
			return c, fmt.Errorf("a dynamically reserved persistent volume %s cannot be unreserved directly. Please destroy the persistent volume first then unreserve the resource", r.Volume())
		}
		after = append(after, unreserved(r))
	}
	c.give, err = state.NewResources(after...)
	return c, err
}

// createVolumes makes volumes; their maker is who asks.
func createVolumes(list []*mesosv1.Resource, by converter) (conversion, error) {
	for _, r := range list {
		p := r.GetDisk().GetPersistence()
		switch {
		case by.principal != "" && p != nil && p.GetPrincipal() == "":
			return conversion{}, fmt.Errorf("a create volume operation was attempted by principal '%s', but there is a volume in the operation with no principal set in 'DiskInfo.Persistence'", by.principal)
		case by.principal != "" && p != nil && p.GetPrincipal() != by.principal:
			return conversion{}, fmt.Errorf("a create volume operation was attempted by principal '%s', but there is a volume in the operation with principal '%s' set in 'DiskInfo.Persistence'", by.principal, p.GetPrincipal())
		}
	}
	return volumesOf(list, by)
}

// volumesOf are volumes, and the disk that they are without.
func volumesOf(list []*mesosv1.Resource, by converter) (c conversion, err error) {
	if c.give, err = asked(list, by); err != nil {
		return c, err
	}
	if n := len(c.give.Volumes()); n != len(list) {
		return c, fmt.Errorf("%d of the resources are no persistent volumes, or are there twice", len(list)-n)
	}
	var before []state.Resource
	for _, r := range c.give {
		before = append(before, emptied(r))
	}
	c.take, err = state.NewResources(before...)
	return c, err
}

// emptied is the disk of a volume without it.
func emptied(r state.Resource) state.Resource {
	d := r.Details()
	d.Disk.Volume, d.Disk.Shared = "", false
	return r.With(d)
}

func growVolume(op *mesosv1.Offer_Operation_GrowVolume, by converter) (c conversion, err error) {
	volume, err := oneVolume(op.GetVolume(), by)
	if err != nil {
		return c, err
	}
	addition, err := asked([]*mesosv1.Resource{op.GetAddition()}, by)
	if err != nil {
		return c, fmt.Errorf("'addition': %w", err)
	}
	same := emptied(volume)
	if a := addition[0]; a.Name != same.Name || a.Role != same.Role || a.Detail != same.Detail {
		return c, fmt.Errorf("the volume is %s, and the addition %s is not of the same disk", state.Resources{volume}, addition)
	}
	if c.take, err = state.NewResources(volume, addition[0]); err != nil {
		return c, err
	}
	volume.Milli += addition[0].Milli
	c.give, err = state.NewResources(volume)
	return c, err
}

func shrinkVolume(op *mesosv1.Offer_Operation_ShrinkVolume, by converter) (c conversion, err error) {
	volume, err := oneVolume(op.GetVolume(), by)
	if err != nil {
		return c, err
	}
	less, ok := state.Thousandths(op.GetSubtract().GetValue())
	if !ok || less == 0 || less >= volume.Milli {
		return c, fmt.Errorf("a volume of %g MB cannot shrink by %v MB", float64(volume.Milli)/1000, op.GetSubtract().GetValue())
	}
	c.take = state.Resources{volume}
	freed := emptied(volume)
	volume.Milli, freed.Milli = volume.Milli-less, less
	c.give, err = state.NewResources(volume, freed)
	return c, err
}

// oneVolume is the volume that is to be resized.
func oneVolume(r *mesosv1.Resource, by converter) (state.Resource, error) {
	c, err := volumesOf([]*mesosv1.Resource{r}, by)
	switch {
	case err != nil:
		return state.Resource{}, fmt.Errorf("'volume': %w", err)
	case c.give[0].Shared():
		return state.Resource{}, fmt.Errorf("'volume' is shared, and shared volumes keep their size")
	case c.give[0].Details().Disk.Kind == state.MountDisk:
		return state.Resource{}, fmt.Errorf("'volume' is a whole disk of its own, which has one size")
	}
	return c.give[0], nil
}
