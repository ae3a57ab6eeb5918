package leader

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/offers"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	"google.golang.org/protobuf/proto"
)

// Version is what the protocol's version fields say: clients take it apart and compare.
const Version = "1.11.0"

// maxOffersEvent bounds one OFFERS event in bytes: clients refuse records over 4 MiB,
// in JSON, which takes up to six times the binary form.
const maxOffersEvent = 512 << 10

// Address is where this master answers.
type Address struct {
	Host string // as clients dial it
	IP   string
	Port int
	// Domain is where it stands; nil: nobody said. Agents of another region are offered to
	// frameworks only that say they know what a region is.
	Domain *mesosv1.DomainInfo
}

// MasterInfo is how a master introduces itself.
func MasterInfo(generation string, a Address) *mesosv1.MasterInfo {
	var ip uint32
	if addr, err := netip.ParseAddr(a.IP); err == nil && addr.Is4() {
		raw := addr.As4()
		// Network order in the memory of a little-endian machine: clients undo it so.
		ip = binary.LittleEndian.Uint32(raw[:])
	}
	return &mesosv1.MasterInfo{
		Id: proto.String(generation), Ip: proto.Uint32(ip), Port: proto.Uint32(uint32(a.Port)),
		Pid:      proto.String("master@" + a.IP + ":" + strconv.Itoa(a.Port)),
		Hostname: proto.String(a.Host), Version: proto.String(Version), Domain: a.Domain,
		Address: &mesosv1.Address{Hostname: proto.String(a.Host), Ip: proto.String(a.IP), Port: proto.Int32(int32(a.Port))},
		Capabilities: []*mesosv1.MasterInfo_Capability{
			{Type: mesosv1.MasterInfo_Capability_AGENT_UPDATE.Enum()},
			{Type: mesosv1.MasterInfo_Capability_AGENT_DRAINING.Enum()},
			{Type: mesosv1.MasterInfo_Capability_QUOTA_V2.Enum()},
		},
	}
}

func subscribedEvent(id state.FrameworkID, info *mesosv1.MasterInfo) *streams.Event {
	return streams.NewEvent(&scheduler.Event{
		Type: scheduler.Event_SUBSCRIBED.Enum(),
		Subscribed: &scheduler.Event_Subscribed{
			FrameworkId:              &mesosv1.FrameworkID{Value: proto.String(string(id))},
			HeartbeatIntervalSeconds: proto.Float64(streams.AnnouncedHeartbeat.Seconds()),
			MasterInfo:               info,
		},
	})
}

func errorEvent(message string) *streams.Event {
	return streams.NewEvent(&scheduler.Event{
		Type: scheduler.Event_ERROR.Enum(), Error: &scheduler.Event_Error{Message: proto.String(message)},
	})
}

func rescindEvent(id offers.ID) *streams.Event {
	return streams.NewEvent(&scheduler.Event{
		Type: scheduler.Event_RESCIND.Enum(), Rescind: &scheduler.Event_Rescind{OfferId: &mesosv1.OfferID{Value: proto.String(string(id))}},
	})
}

func failureEvent(agent state.AgentID) *streams.Event {
	return streams.NewEvent(&scheduler.Event{
		Type: scheduler.Event_FAILURE.Enum(), Failure: &scheduler.Event_Failure{AgentId: &mesosv1.AgentID{Value: proto.String(string(agent))}},
	})
}

func updateEvent(st *mesosv1.TaskStatus) *streams.Event {
	return streams.NewEvent(&scheduler.Event{Type: scheduler.Event_UPDATE.Enum(), Update: &scheduler.Event_Update{Status: st}})
}

// offersEvents splits a framework's new offers over as many records as they need.
func offersEvents(list []*mesosv1.Offer) []*streams.Event {
	var out []*streams.Event
	event := &scheduler.Event_Offers{}
	size := 0
	flush := func() {
		if len(event.Offers) > 0 {
			out = append(out, streams.NewEvent(&scheduler.Event{Type: scheduler.Event_OFFERS.Enum(), Offers: event}))
		}
		event, size = &scheduler.Event_Offers{}, 0
	}
	for _, o := range list {
		n := proto.Size(o)
		if size+n > maxOffersEvent {
			flush()
		}
		event.Offers = append(event.Offers, o)
		size += n
	}
	flush()
	return out
}

func agentURL(a *state.Agent) *mesosv1.URL {
	return &mesosv1.URL{
		Scheme:  proto.String("http"),
		Address: &mesosv1.Address{Hostname: proto.String(a.Hostname), Ip: proto.String(a.Address), Port: proto.Int32(a.Port)},
		Path:    proto.String("/slave(1)"),
	}
}

// offerToWire words an offer for a framework; allocation_info is stripped for those
// that do not know several roles.
func offerToWire(o offers.Offer, a *state.Agent, info *mesosv1.AgentInfo, caps state.Capabilities) *mesosv1.Offer {
	allocated := ""
	w := &mesosv1.Offer{
		Id:          &mesosv1.OfferID{Value: proto.String(string(o.ID))},
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(o.Framework))},
		AgentId:     &mesosv1.AgentID{Value: proto.String(string(o.Agent))},
		Hostname:    proto.String(a.Hostname),
		Url:         agentURL(a),
		Attributes:  info.GetAttributes(),
		Domain:      info.GetDomain(),
	}
	if caps.Has(state.CapMultiRole) {
		allocated = o.Role
		w.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String(o.Role)}
	}
	w.Resources = ToWire(o.Resources, allocated)
	if caps.Has(state.CapReservationRefinement) {
		w.Resources = refined(w.Resources)
	} else {
		w.Resources = unrefined(w.Resources)
	}
	return w
}

// statusTo words one status for a framework: by its own bytes when an agent reported
// it, else from what the cluster decided.
func statusTo(caps state.Capabilities, task state.TaskID, agent state.AgentID, st state.Status) *mesosv1.TaskStatus {
	w := &mesosv1.TaskStatus{}
	if len(st.Wire) > 0 {
		if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(st.Wire, w); err != nil {
			w = &mesosv1.TaskStatus{}
		}
	}
	w.TaskId = &mesosv1.TaskID{Value: proto.String(string(task))}
	w.State = mesosv1.TaskState(visible(caps, st.State)).Enum()
	if len(st.Wire) > 0 {
		return w
	}
	w.Source = mesosv1.TaskStatus_Source(st.Source).Enum()
	if st.Reason != state.NoReason {
		w.Reason = mesosv1.TaskStatus_Reason(st.Reason).Enum()
	}
	if st.Message != "" {
		w.Message = proto.String(st.Message)
	}
	if agent != "" {
		w.AgentId = &mesosv1.AgentID{Value: proto.String(string(agent))}
	}
	w.Timestamp = proto.Float64(float64(st.TimeNS) / 1e9)
	if st.Unreached != 0 && caps.Has(state.CapPartitionAware) {
		w.UnreachableTime = &mesosv1.TimeInfo{Nanoseconds: proto.Int64(st.Unreached)}
	}
	return w
}

// visible maps the states that only partition-aware frameworks know.
func visible(caps state.Capabilities, s state.TaskState) state.TaskState {
	if caps.Has(state.CapPartitionAware) {
		return s
	}
	switch s {
	case state.TaskDropped, state.TaskUnreachable, state.TaskGone, state.TaskGoneByOperator, state.TaskUnknown:
		return state.TaskLost
	}
	return s
}
