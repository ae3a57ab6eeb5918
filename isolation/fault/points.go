package fault

// The points, in the order of a launch.
const (
	Record   Point = "record"
	Mkdir    Point = "mkdir"
	Cgroup   Point = "cgroup"
	Start    Point = "start"
	Register Point = "register"
	Netns    Point = "netns"
	Add      Point = "add"
	Rules    Point = "rules"
	Exec     Point = "exec"
)
