package task

import (
	"fmt"
	"math"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// Bounds of checks that keep one task from costing its node, or the cluster's log, more
// than it is worth.
const (
	// LeastInterval lies between two probes of one check, whatever it says.
	LeastInterval = time.Second
	// MostTimeout is the longest that a probe may take. Mesos knows none for a timeout
	// of 0.
	MostTimeout = 5 * time.Minute
	// maxReports is how many updates may wait for their acknowledgement before a task's
	// checks report nothing new; the next one after that tells what is newest.
	maxReports = 100
)

// CheckKind tells the two checks apart that a task may have.
type CheckKind uint8

const (
	// Health says whether the task is well; one that is not is ended at last.
	Health CheckKind = iota
	// Status is reported, and nothing else follows from it.
	Status
)

// Check is a task's check, whichever kind, with its defaults and bounds.
type Check struct {
	Kind     CheckKind
	Type     mesosv1.CheckInfo_Type // COMMAND, HTTP or TCP: health checks have the same
	Delay    time.Duration
	Interval time.Duration
	Timeout  time.Duration

	Command *mesosv1.CommandInfo // of COMMAND
	Scheme  string               // of HTTP: http or https
	Path    string               // of HTTP; empty or with its slash
	Port    uint32               // of HTTP and TCP
	IPv6    bool                 // on ::1, else on 127.0.0.1
}

// CheckTypeOf is a check's type, found by what is there where it does not say; UNKNOWN
// where that is not one thing.
func CheckTypeOf(c *mesosv1.CheckInfo) mesosv1.CheckInfo_Type {
	if c.Type != nil {
		return c.GetType()
	}
	return inferred(c.Command != nil, c.Http != nil, c.Tcp != nil)
}

// HealthCheckTypeOf is CheckTypeOf for a health check.
func HealthCheckTypeOf(c *mesosv1.HealthCheck) mesosv1.CheckInfo_Type {
	if c.Type != nil {
		return mesosv1.CheckInfo_Type(c.GetType()) // the numbers are the same
	}
	return inferred(c.Command != nil, c.Http != nil, c.Tcp != nil)
}

func inferred(command, http, tcp bool) mesosv1.CheckInfo_Type {
	switch {
	case command && !http && !tcp:
		return mesosv1.CheckInfo_COMMAND
	case http && !command && !tcp:
		return mesosv1.CheckInfo_HTTP
	case tcp && !command && !http:
		return mesosv1.CheckInfo_TCP
	}
	return mesosv1.CheckInfo_UNKNOWN
}

// ChecksOf gives the checks of a task; one that cannot be made out is left out.
func ChecksOf(info *mesosv1.TaskInfo) []Check {
	var out []Check
	if h := info.GetHealthCheck(); h != nil {
		out = append(out, Check{
			Kind: Health, Type: HealthCheckTypeOf(h), Delay: seconds(h.GetDelaySeconds()), Interval: seconds(h.GetIntervalSeconds()), Timeout: seconds(h.GetTimeoutSeconds()),
			Command: h.GetCommand(), Scheme: h.GetHttp().GetScheme(), Path: h.GetHttp().GetPath(), Port: h.GetHttp().GetPort(),
			IPv6: h.GetHttp().GetProtocol() == mesosv1.NetworkInfo_IPv6,
		})
		if c := &out[len(out)-1]; c.Type == mesosv1.CheckInfo_TCP {
			c.Port, c.IPv6 = h.GetTcp().GetPort(), h.GetTcp().GetProtocol() == mesosv1.NetworkInfo_IPv6
		}
	}
	if s := info.GetCheck(); s != nil {
		out = append(out, Check{
			Kind: Status, Type: CheckTypeOf(s), Delay: seconds(s.GetDelaySeconds()), Interval: seconds(s.GetIntervalSeconds()), Timeout: seconds(s.GetTimeoutSeconds()),
			Command: s.GetCommand().GetCommand(), Path: s.GetHttp().GetPath(), Port: s.GetHttp().GetPort(),
		})
		if c := &out[len(out)-1]; c.Type == mesosv1.CheckInfo_TCP {
			c.Port = s.GetTcp().GetPort()
		}
	}
	known := out[:0]
	for _, c := range out {
		if c.Type == mesosv1.CheckInfo_UNKNOWN {
			continue
		}
		if c.Scheme == "" {
			c.Scheme = "http"
		}
		c.Interval = max(c.Interval, LeastInterval)
		if c.Timeout <= 0 || c.Timeout > MostTimeout {
			c.Timeout = MostTimeout
		}
		known = append(known, c)
	}
	return known
}

// seconds is a time as the schema words it; what is none is 0, what is too long is the
// longest that there is.
func seconds(s float64) time.Duration {
	switch {
	case !(s > 0):
		return 0
	case s >= math.MaxInt64/float64(time.Second):
		return math.MaxInt64
	}
	return time.Duration(s * float64(time.Second))
}

// Checked is what a task's checks have found. What was told of it lives as long as the
// task; the rest begins again with the program that watches.
type Checked struct {
	Healthy     *bool                    // as it was told last; nil: never
	CheckStatus *mesosv1.CheckStatusInfo // as it was told last; nil: never

	failures uint32 // of the health check, in a row, that count
	passed   bool   // the health check has succeeded since it began
}

// Found is what one probe found.
type Found struct {
	Why        string // there is no answer, for this reason; empty: there is one
	ExitCode   int32  // of COMMAND
	StatusCode uint32 // of HTTP
}

// Probed: a check was made. Running is how long the task's checks have been going on,
// which is what a grace period is compared with.
type Probed struct {
	Stamp
	Kind    CheckKind
	Found   Found
	Running time.Duration
}

func (Probed) event() {}

// MayBeChecked says whether the task is to be probed now: from the moment that it runs
// until its end is asked for. An executor makes the checks of its tasks itself.
func (t Task) MayBeChecked() bool {
	return t.checkedHere() && t.Latest == mesosv1.TaskState_TASK_RUNNING && t.Container.GetPhase() == keeper.Container_RUNNING && !t.KillRequested && !t.Overdue && !t.Tombstone
}

// checkedHere: the agent makes the checks, as it does all that the built-in executor would.
func (t Task) checkedHere() bool { return t.Execution.ID == "" || t.Inside() }

func probed(t Task, e Probed) (Task, []Action) {
	if !t.MayBeChecked() {
		return t, nil
	}
	for _, c := range ChecksOf(t.Info) {
		switch {
		case c.Kind != e.Kind:
		case c.Kind == Health:
			return healthProbed(t, c, e)
		default:
			return statusProbed(t, c, e)
		}
	}
	return t, nil
}

// healthProbed tells every failure that counts and the first success, and ends the task
// after as many failures in a row as it allows.
func healthProbed(t Task, c Check, e Probed) (Task, []Action) {
	h := t.Info.GetHealthCheck()
	why := c.failed(e.Found)
	if why == "" {
		t.Checked.failures, t.Checked.passed = 0, true
		if t.Checked.Healthy != nil && *t.Checked.Healthy {
			return t, nil
		}
		return report(t, e.Stamp, proto.Bool(true), t.Checked.CheckStatus, healthReason, "")
	}
	grace := seconds(h.GetGracePeriodSeconds())
	if !t.Checked.passed && grace > 0 && e.Running <= grace {
		return t, nil
	}
	if t.Checked.failures < math.MaxUint32 {
		t.Checked.failures++
	}
	last := t.Checked.failures >= h.GetConsecutiveFailures()
	message := fmt.Sprintf("%s health check failed %d times in a row: %s", c.Type, t.Checked.failures, why)
	if t.Checked.failures == 1 {
		message = fmt.Sprintf("%s health check failed: %s", c.Type, why)
	}
	t, todo := report(t, e.Stamp, proto.Bool(false), t.Checked.CheckStatus, healthReason, message)
	if !last {
		return t, todo
	}
	t.Checked.Healthy = proto.Bool(false) // should there have been no room to report it
	s := e.Stamp
	s.UUIDs[0] = e.UUIDs[1] // the other one is the report's
	t, more := kill(t, Kill{Stamp: s, Grace: -1})
	return t, append(todo, more...)
}

// statusProbed tells a result that is another than what was told last. Where there is
// none, that is told: an empty one.
func statusProbed(t Task, c Check, e Probed) (Task, []Action) {
	now := c.status(e.Found)
	before := t.Checked.CheckStatus
	if before == nil {
		before = emptyStatus(c.Type)
	}
	if proto.Equal(now, before) {
		return t, nil
	}
	message := ""
	if e.Found.Why != "" && c.Type != mesosv1.CheckInfo_TCP {
		message = fmt.Sprintf("%s check failed: %s", c.Type, e.Found.Why)
	}
	return report(t, e.Stamp, t.Checked.Healthy, now, mesosv1.TaskStatus_REASON_TASK_CHECK_STATUS_UPDATED, message)
}

const healthReason = mesosv1.TaskStatus_REASON_TASK_HEALTH_CHECK_STATUS_UPDATED

// report makes an update of what a check found, unless too many wait already.
func report(t Task, s Stamp, healthy *bool, status *mesosv1.CheckStatusInfo, r mesosv1.TaskStatus_Reason, message string) (Task, []Action) {
	if len(t.Pending) >= maxReports {
		return t, nil
	}
	t.Checked.Healthy, t.Checked.CheckStatus = healthy, status
	return add(t, s.Now, s.UUIDs[0], mesosv1.TaskState_TASK_RUNNING, executorSource, r.Enum(), message)
}

// failed says why a probe counts as a failure of a health check; empty: it does not.
func (c Check) failed(f Found) string {
	switch {
	case f.Why != "":
		return f.Why
	case c.Type == mesosv1.CheckInfo_COMMAND && f.ExitCode != 0:
		return fmt.Sprintf("the command exited with status %d", f.ExitCode)
	case c.Type == mesosv1.CheckInfo_HTTP && (f.StatusCode < 200 || f.StatusCode >= 400):
		return fmt.Sprintf("the answer has the status %d, which is not of 200 to 399", f.StatusCode)
	}
	return ""
}

// status words what a probe found. A port that nobody answers on is a result; of a
// command that did not exit, and of a server that did not answer, there is none.
func (c Check) status(f Found) *mesosv1.CheckStatusInfo {
	out := emptyStatus(c.Type)
	switch {
	case c.Type == mesosv1.CheckInfo_TCP:
		out.Tcp.Succeeded = proto.Bool(f.Why == "")
	case f.Why != "":
	case c.Type == mesosv1.CheckInfo_COMMAND:
		out.Command.ExitCode = proto.Int32(f.ExitCode)
	case c.Type == mesosv1.CheckInfo_HTTP:
		out.Http.StatusCode = proto.Uint32(f.StatusCode)
	}
	return out
}

func emptyStatus(of mesosv1.CheckInfo_Type) *mesosv1.CheckStatusInfo {
	out := &mesosv1.CheckStatusInfo{Type: of.Enum()}
	switch of {
	case mesosv1.CheckInfo_COMMAND:
		out.Command = &mesosv1.CheckStatusInfo_Command{}
	case mesosv1.CheckInfo_HTTP:
		out.Http = &mesosv1.CheckStatusInfo_Http{}
	case mesosv1.CheckInfo_TCP:
		out.Tcp = &mesosv1.CheckStatusInfo_Tcp{}
	}
	return out
}

// sayChecked puts into a status what the checks found: of a task with a check always
// something, if only its type, because programs read it unguarded.
func sayChecked(t Task, st *mesosv1.TaskStatus) {
	if !t.checkedHere() {
		return // its executor knows
	}
	if t.Info.GetHealthCheck() != nil {
		st.Healthy = t.Checked.Healthy
	}
	if c := t.Info.GetCheck(); c != nil {
		if st.CheckStatus = t.Checked.CheckStatus; st.CheckStatus == nil {
			st.CheckStatus = emptyStatus(CheckTypeOf(c))
		}
	}
}

// rememberChecked takes from an update that was written down what it said of checks.
func rememberChecked(t Task, status []byte) Task {
	if t.Info.GetHealthCheck() == nil && t.Info.GetCheck() == nil {
		return t
	}
	st := &mesosv1.TaskStatus{}
	if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(status, st) == nil {
		t.Checked.Healthy, t.Checked.CheckStatus = st.Healthy, st.CheckStatus
	}
	return t
}
