package operator

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/allocator"
	"github.com/mesolith/mesolith/api/mesos/v1/maintenance"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/acl"
)

// Windows reads a schedule.
func Windows(s *maintenance.Schedule) ([]state.Window, error) {
	var out []state.Window
	for _, w := range s.GetWindows() {
		machines, err := Machines(w.GetMachineIds())
		if err != nil {
			return nil, err
		}
		one := state.Window{Machines: machines, StartNS: w.GetUnavailability().GetStart().GetNanoseconds(), Duration: -1}
		if d := w.GetUnavailability().GetDuration(); d != nil {
			if one.Duration = d.GetNanoseconds(); one.Duration < 0 {
				return nil, fmt.Errorf("a window of the schedule has a 'duration' of less than nothing")
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// Machines reads names of machines; host names have no case.
func Machines(list []*mesosv1.MachineID) ([]state.MachineID, error) {
	if len(list) == 0 {
		return nil, errors.New("no machine is named")
	}
	var out []state.MachineID
	for _, id := range list {
		one := state.MachineID{Hostname: strings.ToLower(id.GetHostname()), IP: id.GetIp()}
		if one.IP != "" {
			ip, err := netip.ParseAddr(one.IP)
			if err != nil {
				return nil, fmt.Errorf("the 'ip' of machine %q is %q, which is no address", id.GetHostname(), one.IP)
			}
			one.IP = ip.String()
		}
		if one == (state.MachineID{}) {
			return nil, fmt.Errorf("a machine has neither 'hostname' nor 'ip'")
		}
		out = append(out, one)
	}
	return out, nil
}

func machineID(m state.MachineID) *mesosv1.MachineID {
	out := &mesosv1.MachineID{}
	if m.Hostname != "" {
		out.Hostname = proto.String(m.Hostname)
	}
	if m.IP != "" {
		out.Ip = proto.String(m.IP)
	}
	return out
}

// Schedule is what is planned, for who may see it.
func Schedule(m *state.Machine, j acl.Judge) *maintenance.Schedule {
	out := &maintenance.Schedule{}
	if !j.May(acl.GetMaintenanceSchedule, acl.Object{}) {
		return out
	}
	m.View(func(s *state.State) {
		for _, w := range s.Maintenance().Windows {
			one := &maintenance.Window{Unavailability: leader.Unavailability(&w)}
			for _, id := range w.Machines {
				one.MachineIds = append(one.MachineIds, machineID(id))
			}
			out.Windows = append(out.Windows, one)
		}
	})
	return out
}

// MaintenanceStatus is how far what is planned has come: of machines that are still up,
// what the frameworks on them answered. It is for who may see it.
func MaintenanceStatus(m *state.Machine, j acl.Judge) *maintenance.ClusterStatus {
	out := &maintenance.ClusterStatus{}
	if !j.May(acl.GetMaintenanceStatus, acl.Object{}) {
		return out
	}
	m.View(func(s *state.State) {
		plan := s.Maintenance()
		agents := agentsByMachine(s)
		for _, w := range plan.Windows {
			for _, id := range w.Machines {
				if plan.IsDown(id) {
					continue
				}
				out.DrainingMachines = append(out.DrainingMachines, &maintenance.ClusterStatus_DrainingMachine{Id: machineID(id), Statuses: answersOn(s, agents[id])})
			}
		}
		for _, id := range plan.Down {
			out.DownMachines = append(out.DownMachines, machineID(id))
		}
	})
	return out
}

// agentsByMachine finds agents by each of the names that their machines can have in a
// schedule, once for all of it: both may be large.
func agentsByMachine(s *state.State) map[state.MachineID][]*state.Agent {
	out := map[state.MachineID][]*state.Agent{}
	for a := range s.Agents() {
		host := strings.ToLower(a.Hostname)
		names := []state.MachineID{{Hostname: host, IP: a.Address}, {Hostname: host}, {IP: a.Address}}
		for i, id := range names {
			if id.Is(a) && !slices.Contains(names[:i], id) { // empty parts make two of them one
				out[id] = append(out[id], a)
			}
		}
	}
	return out
}

// answersOn are the answers of all frameworks that have tasks on a machine's agents.
func answersOn(s *state.State, agents []*state.Agent) (out []*allocator.InverseOfferStatus) {
	for _, a := range agents {
		seen := map[state.FrameworkID]bool{}
		for t := range s.ContainersOfAgent(a.ID) {
			if t.Orphan || seen[t.FrameworkID] {
				continue
			}
			seen[t.FrameworkID] = true
			one := &allocator.InverseOfferStatus{
				Status: allocator.InverseOfferStatus_UNKNOWN.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(t.FrameworkID))}, Timestamp: timeInfo(0),
			}
			if said, ok := s.InverseAnswer(a.ID, t.FrameworkID); ok {
				if one.Status = allocator.InverseOfferStatus_DECLINE.Enum(); said.Accept {
					one.Status = allocator.InverseOfferStatus_ACCEPT.Enum()
				}
				one.Timestamp = timeInfo(said.TimeNS)
			}
			out = append(out, one)
		}
	}
	return out
}

func (h *handler) schedule(c *call) (*master.Response, error) {
	if _, err := h.collect(c, Want{}); err != nil { // that this master leads is sure then
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_MAINTENANCE_SCHEDULE.Enum(), GetMaintenanceSchedule: &master.Response_GetMaintenanceSchedule{Schedule: Schedule(h.Machine, auth.JudgeOf(c.Context()))}}, nil
}

func (h *handler) maintenanceStatus(c *call) (*master.Response, error) {
	if _, err := h.collect(c, Want{}); err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_MAINTENANCE_STATUS.Enum(), GetMaintenanceStatus: &master.Response_GetMaintenanceStatus{Status: MaintenanceStatus(h.Machine, auth.JudgeOf(c.Context()))}}, nil
}

func (h *handler) updateSchedule(c *call) (*master.Response, error) {
	windows, err := Windows(c.Call.GetUpdateMaintenanceSchedule().GetSchedule())
	if err != nil {
		return nil, refusal{http.StatusBadRequest, err.Error()}
	}
	return nil, refused(c.leader.UpdateSchedule(c.Context(), windows))
}

func (h *handler) startMaintenance(c *call) (*master.Response, error) {
	machines, err := Machines(c.Call.GetStartMaintenance().GetMachines())
	if err != nil {
		return nil, refusal{http.StatusBadRequest, err.Error()}
	}
	return nil, refused(c.leader.StartMaintenance(c.Context(), machines))
}

func (h *handler) stopMaintenance(c *call) (*master.Response, error) {
	machines, err := Machines(c.Call.GetStopMaintenance().GetMachines())
	if err != nil {
		return nil, refusal{http.StatusBadRequest, err.Error()}
	}
	return nil, refused(c.leader.StopMaintenance(c.Context(), machines))
}
