package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// runPrefix begins the names of the frameworks that `lith run` registers; `lith kill`
// knows them by it.
const runPrefix = "lith run: "

// baseImage names the root file system that tasks without an image get.
const baseImage = "base"

// Exit codes of `lith run` besides the task's own.
const (
	exitNotRun = 125 // the task never ran, or was lost
	exitSignal = 128 // plus the signal's number
)

// Times of `lith run`.
const (
	quietTime     = 2 * time.Second // then it says what it waits for
	endTime       = 45 * time.Second
	failoverTime  = 60 // seconds that the task lives on without this program
	takeoverPause = 500 * time.Millisecond
)

type runOptions struct {
	target targetFlags
	name   string
	cpus   float64
	mem    float64
	disk   float64
	ports  int
	env    []string
	shell  bool
	node   string
	role   string
	grace  time.Duration
	quiet  bool
}

func runCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use: "run IMAGE [flags] [-- CMD ARGS...]", Short: "Run a task, show its output, end with its exit code",
		Long: `Run a task on the cluster as a small framework of its own: show its output as it
comes, end with its exit code. IMAGE is an image reference, or "base" for the plain root
file system that every node has. Without CMD the image's own command runs.

An interrupt (Ctrl-C) kills the task. Exit codes besides the task's own: 128+N when signal
N ended it, 125 when it never ran or was lost.`,
		Example: `  lith run base -- echo hello
  lith run base --shell -- 'echo $HOME; sleep 1; exit 3'
  lith run docker.io/library/alpine --cpus 0.5 --mem 64 --env WHO=world -- sh -c 'echo hello $WHO'
  lith run base --port 1 --shell -- 'httpd -f -p $PORT0'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
				return errors.New("no image named: write `lith run IMAGE -- CMD`, with \"base\" for no image")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := o.target.open()
			if err != nil {
				return err
			}
			task, err := o.task(args[0], args[1:])
			if err != nil {
				return err
			}
			r := &runner{target: t, options: o, task: task, stdout: cmd.OutOrStdout(), stderr: cmd.ErrOrStderr()}
			code, err := r.run(cmd.Context())
			if err == nil && code != 0 {
				return exitError{code}
			}
			return err
		},
	}
	o.target.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "name of the task, with which its id begins (default: made from the command)")
	f.Float64Var(&o.cpus, "cpus", 0.1, "processors")
	f.Float64Var(&o.mem, "mem", 64, "memory in MB")
	f.Float64Var(&o.disk, "disk", 0, "disk in MB")
	f.IntVar(&o.ports, "port", 0, "how many ports; their numbers are in PORT0, PORT1, …")
	f.StringArrayVar(&o.env, "env", nil, "NAME=VALUE in the task's environment (again for more)")
	f.BoolVar(&o.shell, "shell", false, "give CMD to the task's shell as one line")
	f.StringVar(&o.node, "node", "", "only on this node")
	f.StringVar(&o.role, "role", "*", "role whose resources are used")
	f.DurationVar(&o.grace, "grace", 5*time.Second, "time between asking the task to end and ending it")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but the task's output")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("node", completeNodes(&o.target)))
	return cmd
}

// task turns flags and arguments into what the framework shall run.
func (o runOptions) task(image string, argv []string) (client.Task, error) {
	if len(argv) == 0 && (image == baseImage || o.shell) {
		return client.Task{}, errors.New("no command given: write it behind --, as `lith run base -- echo hello`")
	}
	if o.cpus <= 0 || o.mem <= 0 || o.disk < 0 || o.ports < 0 {
		return client.Task{}, errors.New("--cpus and --mem are more than 0, --disk and --port not less than 0")
	}
	env, err := environment(o.env)
	if err != nil {
		return client.Task{}, err
	}
	name := o.name
	if name == "" {
		name = nameOf(image, argv)
	}
	suffix := make([]byte, 4)
	if _, err := rand.Read(suffix); err != nil {
		return client.Task{}, fmt.Errorf("make task id: %w", err)
	}
	command := &mesosv1.CommandInfo{Shell: proto.Bool(o.shell), Environment: env}
	switch {
	case o.shell:
		command.Value = proto.String(strings.Join(argv, " "))
	case len(argv) > 0:
		command.Value, command.Arguments = proto.String(argv[0]), argv
	}
	task := client.Task{
		ID: name + "-" + hex.EncodeToString(suffix), Name: name, CPUs: o.cpus, MemMB: o.mem, DiskMB: o.disk, Ports: o.ports,
		Command: command,
		Grace:   &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(o.grace.Nanoseconds())}},
	}
	if image != baseImage {
		task.Container = &mesosv1.ContainerInfo{
			Type: mesosv1.ContainerInfo_MESOS.Enum(),
			Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{
				Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: proto.String(image)},
			}},
		}
	}
	return task, nil
}

func environment(list []string) (*mesosv1.Environment, error) {
	if len(list) == 0 {
		return nil, nil
	}
	env := &mesosv1.Environment{}
	for _, one := range list {
		name, value, ok := strings.Cut(one, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--env %q is not of the form NAME=VALUE", one)
		}
		env.Variables = append(env.Variables, &mesosv1.Environment_Variable{Name: proto.String(name), Value: proto.String(value)})
	}
	return env, nil
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// nameOf makes a task's name of its command, or of its image's last part.
func nameOf(image string, argv []string) string {
	text := image
	if len(argv) > 0 {
		text = strings.Fields(argv[0] + " x")[0]
	}
	text = text[strings.LastIndexByte(text, '/')+1:]
	text, _, _ = strings.Cut(text, "@")
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(text), "-"), "-")
	if name == "" {
		return "task"
	}
	return name[:min(len(name), 32)]
}

// runner is one `lith run`.
type runner struct {
	target         *target
	options        runOptions
	task           client.Task
	stdout, stderr io.Writer

	mu sync.Mutex // guards stderr, which the task's output and our words share
}

func (r *runner) say(format string, args ...any) {
	if r.options.quiet {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.stderr, "lith: "+format+"\n", args...)
}

// lockedWriter lets the task's stderr and our words share one stream, whole writes each.
type lockedWriter struct{ r *runner }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.stderr.Write(p)
}

func (r *runner) run(ctx context.Context) (int, error) {
	if err := r.findNode(ctx); err != nil {
		return 0, err
	}
	c, err := client.New(client.Config{Masters: r.target.api, HTTP: r.target.http, Framework: r.framework(), Protobuf: true})
	if err != nil {
		return 0, err
	}
	l := client.NewLauncher(c, nil)
	if err := l.Add(ctx, r.task); err != nil {
		return 0, err
	}
	// The framework outlives an interrupt, to end the task in order.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { _ = l.Run(life) }) // its error comes out of Wait

	started, ended := make(chan struct{}), make(chan struct{})
	wg.Go(func() { r.tellDelay(ctx, l, started) })
	t, err := l.Wait(ctx, r.task.ID, begun)
	close(started)
	shown := make(chan struct{})
	if err == nil && ran(t.Status) {
		r.announce(ctx, t)
		live := t // t goes on to what the task is at its end
		wg.Go(func() { defer close(shown); r.show(life, c.FrameworkID(), live, ended) })
	} else {
		close(shown)
	}
	if err == nil {
		t, err = l.Wait(ctx, r.task.ID, client.Ended)
	}
	if ctx.Err() != nil {
		t, err = r.interrupt(life, l)
	}
	last := t.Status
	if errors.Is(err, client.ErrFrameworkEnded) {
		last, err = r.takenOver(ctx, c.FrameworkID())
	} else {
		defer r.teardown(life, c)
	}
	close(ended)
	if err != nil {
		return 0, err
	}
	select {
	case <-shown:
	case <-time.After(endTime):
		r.say("the rest of the output did not come within %s: `lith logs%s %s`", endTime, r.target.at(), r.task.ID)
	}
	return r.outcome(last), nil
}

// begun is a condition for Wait: the task runs or has already ended.
func begun(t client.Launched) bool { return client.Running(t) || t.Done() }

// ran reports whether a task came so far as to have a sandbox with output.
func ran(s *mesosv1.TaskStatus) bool {
	return s.GetState() == mesosv1.TaskState_TASK_RUNNING ||
		s.GetSource() != mesosv1.TaskStatus_SOURCE_MASTER && s.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED
}

func (r *runner) framework() *mesosv1.FrameworkInfo {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String(runPrefix + r.task.Name + " (" + who + "@" + host + ")"), Roles: []string{r.options.role},
		Hostname: proto.String(host), FailoverTimeout: proto.Float64(failoverTime),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
	}
}

// findNode turns --node's name into the hostname that offers carry.
func (r *runner) findNode(ctx context.Context) error {
	if r.options.node == "" {
		return nil
	}
	s, err := r.target.status(ctx, time.Now())
	if err != nil {
		return err
	}
	var names []string
	for _, n := range s.Nodes {
		if n.Name == r.options.node && n.agent != nil {
			r.task.Hostname = n.agent.GetHostname()
			return nil
		}
		names = append(names, n.Name+" ("+n.State+")")
	}
	return fmt.Errorf("no node %q takes tasks: there are %s", r.options.node, strings.Join(names, ", "))
}

// tellDelay says every few seconds what a start waits for.
func (r *runner) tellDelay(ctx context.Context, l *client.Launcher, started <-chan struct{}) {
	tick := time.NewTicker(quietTime)
	defer tick.Stop()
	before := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-started:
			return
		case <-tick.C:
			if now, ok := l.Get(r.task.ID); ok {
				r.say("%s (%.0f s)", waitsFor(now, r.task), time.Since(before).Seconds())
			}
		}
	}
}

func waitsFor(t client.Launched, task client.Task) string {
	switch {
	case t.Info == nil:
		return fmt.Sprintf("waiting for an offer of %g cpus and %g MB", task.CPUs, task.MemMB)
	case t.Status == nil:
		return "launched on " + t.Hostname + ", waiting for it to start"
	}
	return "the task is " + t.Status.GetState().String() + " on " + t.Hostname
}

func (r *runner) announce(ctx context.Context, t client.Launched) {
	node := r.target.nodeName(t.Hostname)
	r.say("task %s runs on %s", r.task.ID, node)
	for i, port := range t.Ports {
		at := r.target.fromHere(ctx, net.JoinHostPort(t.Hostname, strconv.FormatUint(port, 10)))
		r.say("PORT%d is http://%s", i, at)
	}
}

// show copies stdout and stderr until the task has ended and all of both is out.
func (r *runner) show(ctx context.Context, framework string, t client.Launched, ended <-chan struct{}) {
	agent := r.agentURL(ctx, t.Hostname)
	l := life{
		agent: t.Info.GetAgentId().GetValue(), framework: framework, task: r.task.ID,
		container: t.Status.GetContainerStatus().GetContainerId().GetValue(),
	}
	var wg sync.WaitGroup
	for name, w := range map[string]io.Writer{"stdout": r.stdout, "stderr": lockedWriter{r}} {
		wg.Go(func() {
			file, err := r.target.sandbox(ctx, agent, l, name)
			if err == nil {
				err = file.follow(ctx, w, ended)
			}
			if err != nil && ctx.Err() == nil {
				r.say("cannot show %s: %v", name, err)
			}
		})
	}
	wg.Wait()
}

// agentURL finds the agent's port of a hostname of an offer.
func (r *runner) agentURL(ctx context.Context, hostname string) string {
	s, err := r.target.status(ctx, time.Now())
	if err == nil {
		for _, n := range s.Nodes {
			if n.agent.GetHostname() == hostname {
				return r.target.agentURL(n.agent)
			}
		}
	}
	return r.target.agentURL(&mesosv1.AgentInfo{Hostname: proto.String(hostname), Port: proto.Int32(5051)})
}

// interrupt ends the task in order.
func (r *runner) interrupt(life context.Context, l *client.Launcher) (client.Launched, error) {
	ctx, cancel := context.WithTimeout(life, endTime+r.options.grace)
	defer cancel()
	r.say("interrupted: killing task %s (interrupt again to leave at once; the cluster ends it after %d s then)", r.task.ID, failoverTime)
	if err := l.Kill(ctx, r.task.ID); err != nil {
		return client.Launched{}, fmt.Errorf("kill task %s: %w", r.task.ID, err)
	}
	return l.Wait(ctx, r.task.ID, client.Ended)
}

func (r *runner) teardown(life context.Context, c *client.Client) {
	ctx, cancel := context.WithTimeout(life, endTime)
	defer cancel()
	if err := c.Teardown(ctx); err != nil {
		r.say("the framework was not ended (%v); the cluster ends it after %d s", err, failoverTime)
	}
}

// takenOver waits for the end of a task whose framework somebody else has taken over, as
// `lith kill` does.
func (r *runner) takenOver(ctx context.Context, framework string) (*mesosv1.TaskStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, endTime+r.options.grace)
	defer cancel()
	tick := time.NewTicker(takeoverPause)
	defer tick.Stop()
	for {
		all, err := r.target.tasks(ctx)
		if err != nil && ctx.Err() == nil {
			return nil, err
		}
		for _, v := range all {
			if v.ID == r.task.ID && v.task.GetFrameworkId().GetValue() == framework && v.ended() {
				r.say("somebody else ended this framework")
				return newest(v.task), nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("framework %s was taken over, and its task did not end: %w", framework, ctx.Err())
		case <-tick.C:
		}
	}
}

// outcome turns the last status into an exit code, and says why where it is not 0.
func (r *runner) outcome(s *mesosv1.TaskStatus) int {
	code := codeOf(s)
	if code != 0 {
		text := s.GetState().String()
		if s.Reason != nil {
			text += ", " + s.GetReason().String()
		}
		if s.GetMessage() != "" {
			text += ": " + s.GetMessage()
		}
		r.say("task %s ended as %s", r.task.ID, text)
	}
	return code
}

var (
	exitedWith = regexp.MustCompile(`exited with status (\d+)`)
	endedBy    = regexp.MustCompile(`terminated with signal ([A-Za-z /]+[0-9]*)`)
)

// codeOf reads an exit code out of the sentence in which Mesos tells it.
func codeOf(s *mesosv1.TaskStatus) int {
	if s.GetState() == mesosv1.TaskState_TASK_FINISHED {
		return 0
	}
	if m := exitedWith.FindStringSubmatch(s.GetMessage()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 && n < 256 {
			return n
		}
	}
	if m := endedBy.FindStringSubmatch(s.GetMessage()); m != nil {
		for n := 1; n < 65; n++ {
			if strings.HasPrefix(strings.ToLower(strings.TrimSpace(m[1])), syscall.Signal(n).String()) {
				return exitSignal + n
			}
		}
	}
	switch s.GetState() {
	case mesosv1.TaskState_TASK_KILLED:
		return exitSignal + int(syscall.SIGTERM)
	case mesosv1.TaskState_TASK_FAILED:
		if s.GetReason() == mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY {
			return exitSignal + int(syscall.SIGKILL)
		}
	}
	return exitNotRun
}
