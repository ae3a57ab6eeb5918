package leader

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mesolith/mesolith/clusterd/state"
)

// nameUser sees to it that the name which a task runs under has an id: it goes into the
// log before the launch does. A task is never refused for its user's name.
func (l *Leader) nameUser(id state.FrameworkID, own string) {
	var name string
	var known bool
	l.cfg.Machine.View(func(s *state.State) {
		f, ok := s.Framework(id)
		if !ok {
			return
		}
		name = userName(own, f.User)
		_, known = s.UserID(name)
	})
	if name == "" || known || l.naming[name] {
		return
	}
	l.naming[name] = true
	l.propose(state.NameUser{Name: name}, func(_ state.Result, err error) {
		delete(l.naming, name)
		if err != nil {
			l.log.Warn("user has no id of the cluster's; nodes compute one", "user", name, "error", err)
		}
	})
}

// userName is the part of a task's user that may need an id: no group, no number, not root.
func userName(own, framework string) string {
	if own == "" {
		own = framework
	}
	name, _, _ := strings.Cut(own, ":")
	if _, err := strconv.ParseUint(name, 10, 32); err == nil || name == "root" {
		return ""
	}
	return name
}

// Numbers of fields of mesos.v1.
const (
	taskExecutor = 5 // TaskInfo.executor
	taskCommand  = 7 // TaskInfo.command, and ExecutorInfo.command
	commandUser  = 5 // CommandInfo.user
)

// TaskUser is whom an encoded TaskInfo names as its command's user, or its executor's;
// empty: its framework's.
func TaskUser(info []byte) string {
	if u := userIn(info); u != "" {
		return u
	}
	return userIn(fieldIn(info, taskExecutor))
}

// userIn finds command.user in an encoded TaskInfo or ExecutorInfo without decoding the rest: this runs
// for every launch.
func userIn(info []byte) string {
	return string(fieldIn(fieldIn(info, taskCommand), commandUser))
}

// fieldIn is the last field of bytes with a number; nil: there is none.
func fieldIn(message []byte, number protowire.Number) (value []byte) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return value
		}
		message = message[size:]
		if n == number && kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(message)
		}
		if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
			return value
		}
		message = message[size:]
	}
	return value
}
