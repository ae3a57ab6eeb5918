// Package metrics is /metrics/snapshot: one flat object of names and numbers, with the
// names that Mesos' exporters read.
//
// Invariant: every node answers for itself. master/elected is 1 on the node that leads and
// 0 elsewhere, since exporters run one per master and add up; what only a leader knows is
// left out elsewhere, never made up. Counters of ended tasks are those of the bounded
// history, counters of messages those of the present term.
//
// It takes what it shows from operator's Picture, the agent's View and /proc.
package metrics

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/replica"
	"github.com/mesolith/mesolith/clusterd/state"
)

// Config is what the endpoint needs; Leader, Agent and Pulse may be nil.
type Config struct {
	Leader  func() *leader.Leader
	Machine *state.Machine
	Agent   func(context.Context) (agent.View, error)
	Pulse   *replica.Pulse // of a master
	Started time.Time
	Log     *slog.Logger
}

const gatherTime = 5 * time.Second

// Handler answers /metrics/snapshot.
func Handler(cfg Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wait := gatherTime
		if text := r.URL.Query().Get("timeout"); text != "" {
			d, err := mesosjson.ParseDuration(text)
			if err != nil || d <= 0 {
				httpio.Error(w, http.StatusBadRequest, "Failed to parse timeout: "+text)
				return
			}
			wait = min(d, gatherTime)
		}
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		body := render(cfg.Gather(ctx))
		err := httpio.Send(w, r, httpio.JSON, func(out io.Writer) error {
			_, err := out.Write(body)
			return err
		})
		if err != nil {
			cfg.Log.Info("metrics not sent", "error", err)
		}
	})
}

type values map[string]float64

func render(v map[string]float64) []byte {
	out := []byte{'{'}
	for i, name := range slices.Sorted(maps.Keys(v)) {
		if i > 0 {
			out = append(out, ',')
		}
		out = mesosjson.AppendString(out, name)
		out = append(out, ':')
		out = mesosjson.AppendFloat(out, v[name], 64)
	}
	return append(out, '}')
}

// Gather measures everything, by name; what does not answer in time is left out.
func (cfg Config) Gather(ctx context.Context) map[string]float64 {
	v := values{}
	system(v)
	uptime := time.Since(cfg.Started).Seconds()
	if cfg.Leader != nil {
		v["master/uptime_secs"] = uptime
		v["master/elected"] = 0
		if l := cfg.Leader(); l != nil {
			if err := cfg.master(ctx, l, v); err != nil {
				cfg.Log.Info("master's metrics left out", "error", err)
			}
		}
	}
	if cfg.Pulse != nil {
		b := cfg.Pulse.Read()
		v["raft/heartbeats_heard"], v["raft/heartbeats_missed"] = float64(b.Heard), float64(b.Missed)
		v["raft/heartbeat_silence_longest_secs"] = b.Longest.Seconds()
	}
	if cfg.Agent != nil {
		v["slave/uptime_secs"] = uptime
		view, err := cfg.Agent(ctx)
		if err != nil {
			cfg.Log.Info("agent's metrics left out", "error", err)
			return v
		}
		node(view, v)
	}
	return v
}

func (cfg Config) master(ctx context.Context, l *leader.Leader, v values) error {
	p, err := operator.Collect(ctx, l, cfg.Machine, operator.Everything)
	if err != nil {
		return err
	}
	var live leader.Live // not v: the leader may come to it after ctx has ended
	if err := l.View(ctx, func(_ *state.State, now leader.Live) { live = now }); err != nil {
		return err
	}
	v["master/outstanding_offers"] = float64(len(live.Offers))
	maps.Copy(v, live.Counters)
	v["master/elected"] = 1
	var total, used []*mesosv1.Resource
	for _, a := range p.Agents {
		total = append(total, a.GetTotalResources()...)
		used = append(used, a.GetAllocatedResources()...)
	}
	amounts(v, "master", total, used)
	here := float64(len(p.Agents) - len(live.Away))
	v["master/slaves_active"], v["master/slaves_connected"] = here, here
	v["master/slaves_inactive"], v["master/slaves_disconnected"] = float64(len(live.Away)), float64(len(live.Away)+len(p.Recovered))
	v["master/slaves_unreachable"] = float64(len(p.Unreachable))
	for _, name := range []string{"active", "connected", "inactive", "disconnected"} {
		v["master/frameworks_"+name] = 0
	}
	for _, f := range p.Frameworks {
		if f.GetConnected() {
			v["master/frameworks_active"]++
			v["master/frameworks_connected"]++
		} else {
			v["master/frameworks_inactive"]++
			v["master/frameworks_disconnected"]++
		}
	}
	tasks(v, "master", p.Tasks, p.TasksUnreachable, p.TasksCompleted)
	return nil
}

// tasks counts by state, each state of Mesos being there.
func tasks(v values, of string, lists ...[]*mesosv1.Task) {
	for number := range mesosv1.TaskState_name {
		v[stateName(of, mesosv1.TaskState(number))] = 0
	}
	delete(v, of+"/tasks_unknown")
	for _, list := range lists {
		for _, t := range list {
			v[stateName(of, t.GetState())]++
		}
	}
}

func stateName(of string, s mesosv1.TaskState) string {
	return of + "/tasks_" + strings.ToLower(strings.TrimPrefix(s.String(), "TASK_"))
}

func amounts(v values, of string, total, used []*mesosv1.Resource) {
	for _, name := range []string{"cpus", "gpus", "mem", "disk"} {
		for _, kind := range []struct {
			suffix    string
			revocable bool
		}{{"", false}, {"_revocable", true}} {
			all, taken := sum(total, name, kind.revocable), sum(used, name, kind.revocable)
			key := of + "/" + name + kind.suffix
			v[key+"_total"], v[key+"_used"], v[key+"_percent"] = all, taken, 0
			if all > 0 {
				v[key+"_percent"] = taken / all
			}
		}
	}
}

func sum(list []*mesosv1.Resource, name string, revocable bool) float64 {
	milli := int64(0)
	for _, r := range list {
		if r.GetName() == name && (r.Revocable != nil) == revocable {
			milli += int64(r.GetScalar().GetValue()*1000 + 0.5)
		}
	}
	return float64(milli) / 1000
}

func node(view agent.View, v values) {
	v["slave/registered"] = 0
	if view.Attached {
		v["slave/registered"] = 1
	}
	for number := range mesosv1.TaskState_name {
		v[stateName("slave", mesosv1.TaskState(number))] = 0
	}
	var used []*mesosv1.Resource
	frameworks := map[string]bool{}
	for _, t := range view.Tasks {
		v[stateName("slave", t.State)]++
		if !t.Terminal {
			used = append(used, t.Info.GetResources()...)
			frameworks[t.FrameworkID] = true
		}
	}
	v["slave/frameworks_active"] = float64(len(frameworks))
	amounts(v, "slave", view.Info.GetResources(), operator.Once(used))
}

func system(v values) {
	v["system/cpus_total"] = float64(runtime.NumCPU())
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		fields := strings.Fields(string(raw))
		for i, name := range []string{"1min", "5min", "15min"} {
			if i < len(fields) {
				if x, err := strconv.ParseFloat(fields[i], 64); err == nil {
					v["system/load_"+name] = x
				}
			}
		}
	}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			v["system/mem_total_bytes"] = kib * 1024
		case "MemFree:":
			v["system/mem_free_bytes"] = kib * 1024
		}
	}
}
