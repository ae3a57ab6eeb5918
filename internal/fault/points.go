package fault

// Points of isolated, in the order of a container's life.
const (
	Record       Point = "record" // of the launch
	Image        Point = "image"
	Rootfs       Point = "rootfs"
	Mkdir        Point = "mkdir"   // sandbox and pipes
	Fetched      Point = "fetched" // files are in the sandbox
	Mounted      Point = "mounted" // volumes are where the first process finds them
	Cgroup       Point = "cgroup"
	Create       Point = "create" // libcontainer's own state
	Start        Point = "start"
	Left         Point = "left"    // those places, which it has mounts of now
	Started      Point = "started" // recorded
	Register     Point = "register"
	Netns        Point = "netns"
	NetRecord    Point = "net-record"
	NetAddress   Point = "net-address" // CNI ADD
	NetLoopback  Point = "net-loopback"
	NetRules     Point = "net-rules"
	NetFlows     Point = "net-flows"
	Attached     Point = "attached"
	Connected    Point = "connected" // the address is in the container's files
	ExecRecord   Point = "exec-record"
	Exec         Point = "exec"
	Running      Point = "running" // told
	Limited      Point = "limited" // the limit that ends it is recorded
	KillRecord   Point = "kill-record"
	Terminated   Point = "terminated" // SIGTERM is sent
	Noticed      Point = "noticed"    // its end
	Killed       Point = "killed"     // what its first process left
	Drained      Point = "drained"
	Exited       Point = "exited" // the wait status is recorded
	Reaped       Point = "reaped"
	NetUnrules   Point = "net-unrules"
	NetUnaddress Point = "net-unaddress" // CNI DEL
	NetUnflows   Point = "net-unflows"
	NetUnrecord  Point = "net-unrecord"
	Detached     Point = "detached"
	Ungroup      Point = "ungroup"
	Unpinned     Point = "unpinned" // the network namespace's name
	Uncreated    Point = "uncreated"
	Unmounted    Point = "unmounted"
	Unvolumed    Point = "unvolumed" // volumes' places that were not left
	Unpiped      Point = "unpiped"
	Done         Point = "done"         // the end is recorded
	Acknowledged Point = "acknowledged" // to PID 1
	Forgotten    Point = "forgotten"    // the record is removed
)

// Points of clusterd: what an agent has written down and not yet done, done and not yet
// heard of; and what a leader has committed and not yet told.
const (
	AgentLaunch    Point = "agent-launch" // journalled
	AgentAsked     Point = "agent-asked"  // the keeper, to launch
	AgentLaunched  Point = "agent-launched"
	AgentKill      Point = "agent-kill"   // journalled
	AgentUpdate    Point = "agent-update" // journalled
	AgentSent      Point = "agent-sent"
	AgentHeard     Point = "agent-heard"     // the acknowledgement, before the journal
	AgentSettled   Point = "agent-settled"   // the acknowledgement is journalled
	AgentDropped   Point = "agent-dropped"   // journalled
	LeaderLaunch   Point = "leader-launch"   // committed, the agent not told
	LeaderUpdate   Point = "leader-update"   // committed, the framework not told
	LeaderAnswered Point = "leader-answered" // the framework told
	LeaderSettled  Point = "leader-settled"  // the acknowledgement is committed
	LeaderKill     Point = "leader-kill"     // committed, the agent not told
)

// Isolated and Clusterd list the points of each program, in order.
var (
	Isolated = []Point{
		Record, Image, Rootfs, Mkdir, Fetched, Mounted, Cgroup, Create, Start, Left, Started, Register, Netns, NetRecord, NetAddress, NetLoopback, NetRules,
		NetFlows, Attached, Connected, ExecRecord, Exec, Running, Limited, KillRecord, Terminated, Noticed, Killed, Drained, Exited,
		Reaped, NetUnrules, NetUnaddress, NetUnflows, NetUnrecord, Detached, Ungroup, Unpinned, Uncreated, Unmounted, Unvolumed, Unpiped,
		Done, Acknowledged, Forgotten,
	}
	Clusterd = []Point{
		AgentLaunch, AgentAsked, AgentLaunched, AgentKill, AgentUpdate, AgentSent, AgentHeard, AgentSettled, AgentDropped,
		LeaderLaunch, LeaderUpdate, LeaderAnswered, LeaderSettled, LeaderKill,
	}
)

// Sign begins the id of a task at whose container's points a program dies:
// "die.start.exited.7" names two. What is no point says nothing.
const Sign = "die."
