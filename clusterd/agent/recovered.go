package agent

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/mesolith/mesolith/clusterd/agent/journal"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// adoptContainers gives an agent whose journal was damaged the rest of its memory: what it
// ran is in the keeper's records, and under which agent id. Whatever was told of those
// containers before may be told again, under other uuids. Until then the agent attaches
// to nobody, and a crash in between begins it again.
func (a *Agent) adoptContainers(list *keeper.ContainerList) error {
	if a.gap == "" {
		return nil
	}
	launches := map[string]*keeper.Launch{}
	var newest *keeper.Launch
	for _, l := range list.GetLaunches() {
		if l.GetNested() {
			continue // no task's
		}
		launches[l.GetContainerId()] = l
		if l.GetAgentId() != "" && (newest == nil || older(newest.GetHeight(), newest.GetTerm(), l.GetHeight(), l.GetTerm())) {
			newest = l
		}
	}
	if a.id == "" {
		a.id = newest.GetAgentId()
	}
	if newest != nil && older(a.height, a.term, newest.GetHeight(), newest.GetTerm()) {
		a.height, a.term, a.generation = newest.GetHeight(), newest.GetTerm(), ""
	}
	if a.key == "" {
		var raw [16]byte
		rand.Read(raw[:])
		a.key = hex.EncodeToString(raw[:])
	}
	adopted, left := 0, 0
	for _, c := range list.GetContainers() {
		l := launches[c.GetContainerId()]
		switch {
		case a.tasks[c.GetContainerId()] != nil, c.GetNested():
			continue
		case l == nil || l.GetAgentId() != a.id || l.GetExecutor(): // nobody knows an executor's tasks any more
			left++
			continue
		}
		t, err := a.newTask(&journal.Launched{
			ContainerId: l.GetContainerId(), FrameworkId: l.GetFrameworkId(), Role: l.GetRole(), FrameworkInfo: l.GetFrameworkInfo(),
			TaskInfo: l.GetTaskInfo(), HostNetwork: l.GetHostNetwork(), UserId: l.GetUserId(),
		})
		if err != nil {
			a.log.Error("a container's launch in the keeper's records is not readable", "container", c.GetContainerId(), "error", err)
			left++
			continue
		}
		t.KillRequested = c.GetKillRequested()
		a.put(t)
		adopted++
	}
	a.log.Warn("agent made whole from the keeper's records", "agent", a.id, "why", a.gap, "adopted", adopted, "ended as nobody's", left, "known from the journal", len(a.tasks)-adopted)
	a.gap = ""
	return a.compact()
}
