package fault

// The points, in the order of a launch. Rules comes after the CNI plugins and the
// firewall, which are one call to whoever connects containers.
const (
	Record   Point = "record"
	Mkdir    Point = "mkdir"
	Cgroup   Point = "cgroup"
	Start    Point = "start"
	Register Point = "register"
	Netns    Point = "netns"
	Rules    Point = "rules"
	Exec     Point = "exec"
)
