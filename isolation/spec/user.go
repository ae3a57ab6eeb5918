package spec

import (
	"bufio"
	"bytes"
	"hash/fnv"
	"strconv"
	"strings"
)

// User is who a task runs as, in its own user namespace.
type User struct {
	Name     string
	UID, GID uint32
	Groups   []uint32
	Home     string // empty: the sandbox
	// Line is to be added to the container's passwd, because it does not know the user.
	Line string
}

// Ids that the task's range maps by itself; a greater one is mapped alone.
const RangeSize = 65536

// Ids of names that no passwd knows, and that came without the cluster's id for them.
const (
	firstNamed = 20000
	namedIDs   = 40000
)

// ResolveUser finds the user that a task asks for. A number is taken as it is; a name
// comes from the container's passwd, else it has the id that the cluster gave the name
// (without one, an id computed from it), with a line for that passwd and its home in the
// sandbox: a task never fails for its user's name.
func ResolveUser(asked string, given uint32, passwd, group []byte, sandbox string) User {
	if asked == "" {
		asked = "root"
	}
	name, groupName, _ := strings.Cut(asked, ":")
	u := User{Name: name}
	number, err := strconv.ParseUint(name, 10, 31)
	isNumber := err == nil
	found := false
	for f := range lines(passwd, 7) {
		uid, uerr := strconv.ParseUint(f[2], 10, 31)
		gid, gerr := strconv.ParseUint(f[3], 10, 31)
		if uerr != nil || gerr != nil {
			continue
		}
		if (isNumber && uid == number) || (!isNumber && f[0] == name) {
			u.Name, u.UID, u.GID, u.Home, found = f[0], uint32(uid), uint32(gid), f[5], true
			break
		}
	}
	switch {
	case found:
	case isNumber:
		u.UID, u.GID, u.Home = uint32(number), uint32(number), sandbox
		u.Name = ""
	case name == "root":
		u.Home = "/root"
	default:
		if u.UID = given; given == 0 {
			h := fnv.New32a()
			h.Write([]byte(name))
			u.UID = firstNamed + h.Sum32()%namedIDs
		}
		u.GID, u.Home = u.UID, sandbox
		if validName(name) {
			id := strconv.FormatUint(uint64(u.UID), 10)
			u.Line = name + ":x:" + id + ":" + id + "::" + sandbox + ":/bin/sh\n"
		}
	}
	if gid, ok := groupID(groupName, group); ok {
		u.GID = gid
	}
	u.Groups = memberOf(u.Name, u.GID, group)
	return u
}

func validName(name string) bool {
	return name != "" && len(name) <= 32 && !strings.ContainsAny(name, ":\n\r\x00/ ")
}

func groupID(name string, group []byte) (uint32, bool) {
	if name == "" {
		return 0, false
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return uint32(n), true
	}
	for f := range lines(group, 4) {
		if n, err := strconv.ParseUint(f[2], 10, 31); err == nil && f[0] == name {
			return uint32(n), true
		}
	}
	return 0, false
}

// memberOf lists the other groups of a user; only ids that every range maps.
func memberOf(name string, primary uint32, group []byte) []uint32 {
	var out []uint32
	if name == "" {
		return nil
	}
	for f := range lines(group, 4) {
		n, err := strconv.ParseUint(f[2], 10, 31)
		if err != nil || n >= RangeSize || uint32(n) == primary || len(out) >= 64 {
			continue
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if member == name {
				out = append(out, uint32(n))
				break
			}
		}
	}
	return out
}

// lines gives the records of a passwd or group file that have at least n fields.
func lines(raw []byte, n int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		s := bufio.NewScanner(bytes.NewReader(raw))
		for s.Scan() {
			if f := strings.Split(s.Text(), ":"); len(f) >= n && !yield(f) {
				return
			}
		}
	}
}
