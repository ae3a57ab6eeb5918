package spec

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// rootCapabilities are what root of a container has: those that Docker gives.
var rootCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilities gives the task's: root has the usual ones or fewer, if it asks for fewer;
// anyone else has none but those asked for. More than the usual ones is refused.
func capabilities(in Input) (*specs.LinuxCapabilities, error) {
	linux := in.Task.GetContainer().GetLinuxInfo()
	asked := linux.GetEffectiveCapabilities()
	if asked == nil {
		asked = linux.GetBoundingCapabilities()
	}
	set := []string{}
	switch {
	case asked != nil:
		for _, c := range asked.GetCapabilities() {
			name := "CAP_" + strings.TrimPrefix(c.String(), "CAP_")
			if !slices.Contains(rootCapabilities, name) {
				return nil, fmt.Errorf("%w: capability %s is not given to tasks; they may have %s", ErrInvalidTask, name, strings.Join(rootCapabilities, ", "))
			}
			set = append(set, name)
		}
	case in.User.UID == 0:
		set = slices.Clone(rootCapabilities)
	}
	c := &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set, Inheritable: []string{}, Ambient: []string{}}
	if in.User.UID != 0 {
		// without file capabilities (no new privileges) only ambient ones survive exec
		c.Inheritable, c.Ambient = set, set
	}
	return c, nil
}

var rlimitNames = map[mesosv1.RLimitInfo_RLimit_Type]string{
	mesosv1.RLimitInfo_RLimit_RLMT_AS: "RLIMIT_AS", mesosv1.RLimitInfo_RLimit_RLMT_CORE: "RLIMIT_CORE", mesosv1.RLimitInfo_RLimit_RLMT_CPU: "RLIMIT_CPU",
	mesosv1.RLimitInfo_RLimit_RLMT_DATA: "RLIMIT_DATA", mesosv1.RLimitInfo_RLimit_RLMT_FSIZE: "RLIMIT_FSIZE", mesosv1.RLimitInfo_RLimit_RLMT_LOCKS: "RLIMIT_LOCKS",
	mesosv1.RLimitInfo_RLimit_RLMT_MEMLOCK: "RLIMIT_MEMLOCK", mesosv1.RLimitInfo_RLimit_RLMT_MSGQUEUE: "RLIMIT_MSGQUEUE", mesosv1.RLimitInfo_RLimit_RLMT_NICE: "RLIMIT_NICE",
	mesosv1.RLimitInfo_RLimit_RLMT_NOFILE: "RLIMIT_NOFILE", mesosv1.RLimitInfo_RLimit_RLMT_NPROC: "RLIMIT_NPROC", mesosv1.RLimitInfo_RLimit_RLMT_RSS: "RLIMIT_RSS",
	mesosv1.RLimitInfo_RLimit_RLMT_RTPRIO: "RLIMIT_RTPRIO", mesosv1.RLimitInfo_RLimit_RLMT_RTTIME: "RLIMIT_RTTIME", mesosv1.RLimitInfo_RLimit_RLMT_SIGPENDING: "RLIMIT_SIGPENDING",
	mesosv1.RLimitInfo_RLimit_RLMT_STACK: "RLIMIT_STACK",
}

const noLimit = ^uint64(0)

// capped are those of which a task may not have more than it gets by default.
var capped = map[string]uint64{"RLIMIT_NOFILE": maxOpenFiles, "RLIMIT_NICE": 0, "RLIMIT_RTPRIO": 0, "RLIMIT_MEMLOCK": 8 << 20, "RLIMIT_MSGQUEUE": 819200}

func rlimits(asked []*mesosv1.RLimitInfo_RLimit) ([]specs.POSIXRlimit, error) {
	out := []specs.POSIXRlimit{
		{Type: "RLIMIT_CORE", Soft: 0, Hard: noLimit},
		{Type: "RLIMIT_MEMLOCK", Soft: capped["RLIMIT_MEMLOCK"], Hard: capped["RLIMIT_MEMLOCK"]},
		{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: maxOpenFiles},
		{Type: "RLIMIT_NPROC", Soft: noLimit, Hard: noLimit},
	}
	for _, l := range asked {
		name, ok := rlimitNames[l.GetType()]
		if !ok {
			return nil, fmt.Errorf("%w: rlimit type %s is not known", ErrInvalidTask, l.GetType())
		}
		r := specs.POSIXRlimit{Type: name, Soft: noLimit, Hard: noLimit}
		if l.Soft != nil || l.Hard != nil {
			if l.Soft == nil || l.Hard == nil || l.GetSoft() > l.GetHard() {
				return nil, fmt.Errorf("%w: %s needs soft and hard, soft not above hard (or neither for unlimited)", ErrInvalidTask, name)
			}
			r.Soft, r.Hard = l.GetSoft(), l.GetHard()
		}
		if most, ok := capped[name]; ok && r.Hard > most {
			r.Soft, r.Hard = min(r.Soft, most), most
		}
		if i := slices.IndexFunc(out, func(o specs.POSIXRlimit) bool { return o.Type == name }); i >= 0 {
			out[i] = r
		} else {
			out = append(out, r)
		}
	}
	return out, nil
}
