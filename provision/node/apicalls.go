package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	api "github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/internal/wire/pid1"
	"github.com/mesolith/mesolith/provision/node/memory"
)

func (a *apiServer) health(w http.ResponseWriter, _ *http.Request) {
	v, found := a.n.hub.view(), a.n.document()
	h := api.Health{
		Name: found.Document.Name, Cluster: found.Document.Cluster, Source: found.Source, Waiting: v.waiting,
		Addresses: v.node.Addresses, Incarnation: v.node.Incarnation, BootID: v.node.BootId, Version: a.n.image.Version,
		Kernel: v.node.GetInventory().GetKernel(), Time: a.n.cfg.Clock.Now().UTC(),
		Clock:   api.Clock{Synced: v.node.Clock.GetSynced(), Source: v.node.Clock.GetSource(), OffsetNS: time.Duration(v.node.Clock.GetOffsetNs())},
		LastEnd: readLine(a.n.cfg.Root, "run/mesolith/last-end"),
		Status: api.ClusterStatus{
			Role: v.status.Role, Leader: v.status.Leader, Term: v.status.Term, Height: v.status.Height,
			Summary: v.status.Summary, AgentID: v.status.AgentId, TasksRunning: v.status.TasksRunning, Votes: v.status.Votes,
		},
	}
	for _, held := range v.status.GetHeld() {
		h.Status.Held = append(h.Status.Held, api.Held{Master: held.GetMaster(), Hardware: held.GetHardware(), Known: held.GetKnown()})
	}
	a.n.mu.Lock()
	if a.n.keys != nil {
		h.CertificateEnds = a.n.keys.Leaf.NotAfter.UTC()
	}
	a.n.mu.Unlock()
	answer(w, http.StatusOK, h)
}

func (a *apiServer) inventory(w http.ResponseWriter, _ *http.Request) {
	i := a.n.hub.view().node.GetInventory()
	out := api.Inventory{
		Kernel: i.GetKernel(), Vendor: i.GetVendor(), Product: i.GetProduct(), Serial: i.GetSerial(), UUID: i.GetUuid(),
		CPUs: i.GetCpus(), MemoryBytes: i.GetMemoryBytes(),
	}
	for _, n := range i.GetNics() {
		out.NICs = append(out.NICs, api.NIC{
			Name: n.Name, MAC: n.Mac, Driver: n.Driver, PCI: n.Pci, Carrier: n.Carrier, SpeedMbps: n.SpeedMbps, Addresses: n.Addresses,
		})
	}
	for _, d := range i.GetDisks() {
		out.Disks = append(out.Disks, api.Disk{
			Name: d.Name, Model: d.Model, Serial: d.Serial, WWID: d.Wwid, Bytes: d.Bytes, Rotational: d.Rotational, Removable: d.Removable,
		})
	}
	for _, g := range i.GetGpus() {
		out.GPUs = append(out.GPUs, api.GPU{PCI: g.Pci, VendorID: g.VendorId, DeviceID: g.DeviceId, Vendor: g.Vendor, Model: g.Model, Driver: g.Driver})
	}
	answer(w, http.StatusOK, out)
}

func (a *apiServer) services(w http.ResponseWriter, r *http.Request) {
	list, err := a.n.listServices(r.Context())
	if err != nil {
		refuse(w, http.StatusBadGateway, "%v", err)
		return
	}
	out := []api.Service{}
	for _, s := range list {
		out = append(out, api.Service{
			Name: s.Name, State: s.State, PID: s.Pid, Restarts: s.Restarts, LastExit: s.LastExit, Since: time.UnixMilli(s.SinceUnixMs).UTC(),
		})
	}
	answer(w, http.StatusOK, out)
}

func (a *apiServer) memory(w http.ResponseWriter, _ *http.Request) {
	m, err := memory.Observe(a.n.cfg.Root)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "%v", err)
		return
	}
	out := api.Memory{TotalBytes: m.Total, AvailableBytes: m.Available, Groups: []api.MemoryGroup{}}
	for _, g := range m.Groups {
		out.Groups = append(out.Groups, api.MemoryGroup{
			Name: g.Name, Processes: g.Processes, PSSBytes: g.PSS, AnonymousBytes: g.Anonymous, ResidentBytes: g.Resident,
			KeptBytes: g.Kept, MaxBytes: g.Max, OOMKills: g.OOMKills, LowestScore: g.LowestScore, HighestScore: g.HighestScore,
		})
	}
	answer(w, http.StatusOK, out)
}

func (n *machine) listServices(ctx context.Context) ([]*pid1.Service, error) {
	resp, err := n.askInit(ctx, &pid1.Request{Body: &pid1.Request_Services{Services: &pid1.Services{}}})
	if err != nil {
		return nil, err
	}
	return resp.GetServices().GetServices(), nil
}

func (n *machine) servicePID(ctx context.Context, name string) (int, error) {
	list, err := n.listServices(ctx)
	if err != nil {
		return 0, err
	}
	var known []string
	for _, s := range list {
		if s.Name == name && s.Pid > 1 {
			return int(s.Pid), nil
		}
		known = append(known, s.Name+" ("+s.State+")")
	}
	return 0, fmt.Errorf("no running program %.40q; there are %s", name, strings.Join(known, ", "))
}

func (a *apiServer) power(verb string) http.HandlerFunc {
	action := pid1.Power_REBOOT
	if verb == "poweroff" {
		action = pid1.Power_POWEROFF
	}
	const maxReason = 200
	return func(w http.ResponseWriter, r *http.Request) {
		reason := r.FormValue("reason")
		if reason == "" {
			reason = "an operator asked for it"
		}
		reason = reason[:min(len(reason), maxReason)]
		a.n.console.Say("power", "%s: %s", verb, reason)
		_, err := a.n.askInit(r.Context(), &pid1.Request{Body: &pid1.Request_Power{Power: &pid1.Power{Action: action, Reason: reason}}})
		if err != nil {
			refuse(w, http.StatusBadGateway, "%v", err)
			return
		}
		answer(w, http.StatusAccepted, struct{}{})
	}
}

func (a *apiServer) kill(w http.ResponseWriter, r *http.Request) {
	name, text := r.FormValue("name"), strings.ToUpper(r.FormValue("signal"))
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(text, "SIG"))
	if sig == 0 {
		refuse(w, http.StatusBadRequest, "signal %.20q is unknown; write KILL, TERM, HUP, …", text)
		return
	}
	pid, err := a.n.servicePID(r.Context(), name)
	if err != nil {
		refuse(w, http.StatusNotFound, "%v", err)
		return
	}
	if err := a.n.cfg.Signal(pid, sig); err != nil {
		refuse(w, http.StatusConflict, "signal %s to %s (pid %d): %v", text, name, pid, err)
		return
	}
	answer(w, http.StatusAccepted, struct {
		PID int `json:"pid"`
	}{pid})
}

// SendSignal is Config.Signal of a node.
func SendSignal(pid int, sig syscall.Signal) error { return unix.Kill(pid, sig) }

// admit takes an operator's word that another machine carries a master's name. The word
// names the machine by its hardware: a third one is not let in by it.
func (a *apiServer) admit(w http.ResponseWriter, r *http.Request) {
	master, hardware, instead := r.FormValue("master"), r.FormValue("hardware"), r.FormValue("instead")
	names := a.n.document().Document.Masters.Names
	switch {
	case !slices.Contains(names, master):
		refuse(w, http.StatusBadRequest, "master=%.64q is no master of this cluster: it has %s", master, strings.Join(names, ", "))
	case hardware == "" || len(hardware) > 256 || instead == "" || len(instead) > 256:
		refuse(w, http.StatusBadRequest, "hardware=%.64q instead=%.64q are no hashes of machines: /v1/health shows those that wait under status.held", hardware, instead)
	case !a.n.hub.admit(&noded.AdmittedHardware{Master: master, Hardware: hardware, Instead: instead}):
		refuse(w, http.StatusConflict, "%d words of operators are kept already; they are forgotten when this node is booted again", maxAdmitted)
	default:
		answer(w, http.StatusOK, struct{}{})
	}
}
