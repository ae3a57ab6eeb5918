package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/image"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// safeBuffer takes writes from several goroutines and tells of each.
type safeBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written chan struct{}
}

func newBuffer() *safeBuffer { return &safeBuffer{written: make(chan struct{}, 1)} }

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.written <- struct{}{}:
	default:
	}
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *safeBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.written:
		case <-limit:
			t.Fatalf("%q did not come; there is:\n%s", text, s.String())
		}
	}
}

type result struct {
	code        int
	out, errOut string
	err         error
}

// lith runs the program as a person would, with what it prints.
func lith(ctx context.Context, args ...string) result {
	out, errOut := newBuffer(), newBuffer()
	return lithTo(ctx, out, errOut, args...)
}

func lithTo(ctx context.Context, out, errOut *safeBuffer, args ...string) result {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetIn(strings.NewReader(""))
	err := root.ExecuteContext(ctx)
	r := result{out: out.String(), errOut: errOut.String(), err: err}
	var exit exitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.code
	case err != nil:
		r.code = 1
	}
	return r
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		last   *mesosv1.TaskStatus
		code   int
		errHas string
	}{
		{"finished", ended(mesosv1.TaskState_TASK_FINISHED, "Command exited with status 0"), 0, "runs on"},
		{"exit code", ended(mesosv1.TaskState_TASK_FAILED, "Command exited with status 3"), 3, "TASK_FAILED"},
		{"signal", ended(mesosv1.TaskState_TASK_FAILED, "Command terminated with signal Killed"), 137, "signal Killed"},
		{"signal in small letters", ended(mesosv1.TaskState_TASK_FAILED, "Command terminated with signal terminated"), 143, "signal terminated"},
		{"lost", ended(mesosv1.TaskState_TASK_LOST, "the agent was removed"), 125, "the agent was removed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := playCluster(t)
			p.files["stdout"], p.files["stderr"] = "hello \xff\n", "oops\n"
			p.play = func(task *mesosv1.TaskInfo) []*mesosv1.TaskStatus {
				if got := task.GetCommand().GetArguments(); !cmp.Equal(got, []string{"echo", "hello"}) || task.GetCommand().GetShell() {
					t.Errorf("command is %v", task.GetCommand())
				}
				return []*mesosv1.TaskStatus{running(), c.last}
			}
			r := lith(t.Context(), "run", "--api", p.server.URL, "base", "--env", "A=b=c", "--", "echo", "hello")
			if r.code != c.code || r.out != "hello \xff\n" || !strings.Contains(r.errOut, "oops\n") || !strings.Contains(r.errOut, c.errHas) {
				t.Errorf("code %d, error %v, stdout %q, stderr:\n%s", r.code, r.err, r.out, r.errOut)
			}
			if len(p.tornDown) != 1 {
				t.Errorf("frameworks ended: %v", p.tornDown)
			}
		})
	}
}

func TestRunThatNeverRan(t *testing.T) {
	p := playCluster(t)
	p.play = func(*mesosv1.TaskInfo) []*mesosv1.TaskStatus {
		s := ended(mesosv1.TaskState_TASK_ERROR, "custom executors are not supported yet")
		s.Source = mesosv1.TaskStatus_SOURCE_MASTER.Enum()
		return []*mesosv1.TaskStatus{s}
	}
	r := lith(t.Context(), "run", "--api", p.server.URL, "base", "--", "true")
	if r.code != exitNotRun || !strings.Contains(r.errOut, "custom executors") {
		t.Errorf("code %d, error %v:\n%s", r.code, r.err, r.errOut)
	}
}

func TestRunWithImageShellAndPorts(t *testing.T) {
	p := playCluster(t)
	p.files["stdout"], p.files["stderr"] = "", ""
	p.play = func(task *mesosv1.TaskInfo) []*mesosv1.TaskStatus {
		if image := task.GetContainer().GetMesos().GetImage().GetDocker().GetName(); image != "registry:5000/web" {
			t.Errorf("image %q", image)
		}
		if c := task.GetCommand(); !c.GetShell() || c.GetValue() != "serve $PORT0" {
			t.Errorf("command %v", c)
		}
		return []*mesosv1.TaskStatus{running(), ended(mesosv1.TaskState_TASK_FINISHED, "")}
	}
	r := lith(t.Context(), "run", "--api", p.server.URL, "registry:5000/web", "--shell", "--port", "1", "--", "serve $PORT0")
	if r.code != 0 || !strings.Contains(r.errOut, "PORT0 is http://127.0.0.1:31000") {
		t.Errorf("code %d, error %v:\n%s", r.code, r.err, r.errOut)
	}
}

func TestInterruptKillsTheTask(t *testing.T) {
	p := playCluster(t)
	p.files["stdout"], p.files["stderr"] = "begun\n", ""
	p.play = func(*mesosv1.TaskInfo) []*mesosv1.TaskStatus { return []*mesosv1.TaskStatus{running(), nil} }
	ctx, interrupt := context.WithCancel(t.Context())
	out, errOut := newBuffer(), newBuffer()
	done := make(chan result)
	go func() { done <- lithTo(ctx, out, errOut, "run", "--api", p.server.URL, "base", "--", "sleep", "1000") }()
	out.waitFor(t, "begun")
	interrupt()
	r := <-done
	if r.code != 143 || !strings.Contains(r.errOut, "interrupted: killing task") || len(p.tornDown) != 1 {
		t.Errorf("code %d, error %v, frameworks ended %v:\n%s", r.code, r.err, p.tornDown, r.errOut)
	}
}

func TestKillTasksAndLogs(t *testing.T) {
	p := playCluster(t)
	p.files["stdout"], p.files["stderr"] = "begun\n", "warned\n"
	p.play = func(*mesosv1.TaskInfo) []*mesosv1.TaskStatus { return []*mesosv1.TaskStatus{running(), nil} }
	out, errOut := newBuffer(), newBuffer()
	done := make(chan result)
	go func() {
		done <- lithTo(t.Context(), out, errOut, "run", "--api", p.server.URL, "--name", "sleeper", "base", "--", "sleep", "1000")
	}()
	out.waitFor(t, "begun")

	var tasks []taskView
	r := lith(t.Context(), "tasks", "--api", p.server.URL, "--json", "--running")
	if err := json.Unmarshal([]byte(r.out), &tasks); err != nil || len(tasks) != 1 {
		t.Fatalf("tasks: %v, %v:\n%s", err, r.err, r.out)
	}
	want := taskView{Name: "sleeper", State: "TASK_RUNNING", Node: "127.0.0.1", Address: "10.88.1.2", CPUs: 0.1, MemMB: 64}
	ignored := cmpopts.IgnoreFields(taskView{}, "ID", "Framework", "Changed")
	if d := cmp.Diff(want, tasks[0], ignored, cmpopts.IgnoreUnexported(taskView{})); d != "" {
		t.Errorf("task (-want +got):\n%s", d)
	}
	if !strings.HasPrefix(tasks[0].ID, "sleeper-") || !strings.HasPrefix(tasks[0].Framework, runPrefix) {
		t.Errorf("task %q of %q", tasks[0].ID, tasks[0].Framework)
	}
	if r := lith(t.Context(), "logs", "--api", p.server.URL, "sleeper", "--stderr"); r.out != "warned\n" {
		t.Errorf("logs: %q, %v", r.out, r.err)
	}
	if r := lith(t.Context(), "__complete", "kill", "--api", p.server.URL, "sl"); !strings.Contains(r.out, tasks[0].ID) {
		t.Errorf("completion: %q, %v", r.out, r.err)
	}
	if r := lith(t.Context(), "kill", "--api", p.server.URL, "sleeper"); r.err != nil || !strings.Contains(r.out, "ended as TASK_KILLED") {
		t.Errorf("kill: %v\n%s", r.err, r.out)
	}
	if r := <-done; r.code != 143 || !strings.Contains(r.errOut, "somebody else") {
		t.Errorf("the killed run: code %d, %v\n%s", r.code, r.err, r.errOut)
	}
	if r := lith(t.Context(), "kill", "--api", p.server.URL, "sleeper"); r.err == nil || !strings.Contains(r.err.Error(), "has ended already") {
		t.Errorf("killed twice: %v", r.err)
	}
	if r := lith(t.Context(), "logs", "--api", p.server.URL, "-f", "sleeper"); r.out != "begun\n" || r.err != nil {
		t.Errorf("logs after the end: %q, %v", r.out, r.err)
	}
}

func TestKillLeavesOtherFrameworksAlone(t *testing.T) {
	p := playCluster(t)
	id := &mesosv1.FrameworkID{Value: ptr("G-0001")}
	p.frameworks["G-0001"] = &playedFramework{
		info: &mesosv1.FrameworkInfo{Id: id, Name: ptr("marathon"), User: ptr("root")},
		tasks: []*playedTask{{next: []*mesosv1.TaskStatus{nil}, task: &mesosv1.Task{
			Name: ptr("web"), TaskId: &mesosv1.TaskID{Value: ptr("web.1")}, FrameworkId: id,
			AgentId: &mesosv1.AgentID{Value: ptr("gone")}, State: mesosv1.TaskState_TASK_RUNNING.Enum(),
		}}},
	}
	r := lith(t.Context(), "kill", "--api", p.server.URL, "web.1")
	if r.err == nil || !strings.Contains(r.err.Error(), "marathon") || len(p.frameworks["G-0001"].tasks[0].next) != 1 {
		t.Errorf("error %v", r.err)
	}
	if r := lith(t.Context(), "logs", "--api", p.server.URL, "web.1"); r.err == nil || !strings.Contains(r.err.Error(), "is gone with its sandbox") {
		t.Errorf("logs of a gone agent: %v", r.err)
	}
	if r := lith(t.Context(), "logs", "--api", p.server.URL, "nothing"); r.err == nil || !strings.Contains(r.err.Error(), "lith tasks") {
		t.Errorf("logs of nothing: %v", r.err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestStatus(t *testing.T) {
	p := playCluster(t)
	r := lith(t.Context(), "status", "--api", p.server.URL)
	if r.code != 0 || !strings.Contains(r.out, "is well: 127.0.0.1 leads, 1 of 1 node is ready, 0 tasks run.") {
		t.Errorf("code %d, %v:\n%s", r.code, r.err, r.out)
	}
	var s struct {
		Leader, API string
		Nodes       []struct{ Name, State string }
	}
	r = lith(t.Context(), "status", "--api", p.server.URL, "--json")
	if err := json.Unmarshal([]byte(r.out), &s); err != nil || s.Leader != "127.0.0.1" || s.API != p.server.URL || len(s.Nodes) != 1 || s.Nodes[0].State != "ready" {
		t.Errorf("%v, %v:\n%s", err, r.err, r.out)
	}
	if r := lith(t.Context(), "nodes", "--api", p.server.URL); !strings.Contains(r.out, "0.00 of 4.00") {
		t.Errorf("nodes: %v\n%s", r.err, r.out)
	}
	p.leaderless = true
	r = lith(t.Context(), "status", "--api", p.server.URL)
	if r.code != 1 || !strings.Contains(r.out, "has no leader") {
		t.Errorf("without a leader: code %d, %v:\n%s", r.code, r.err, r.out)
	}
	p.server.Close()
	r = lith(t.Context(), "status", "--api", p.server.URL)
	if r.err == nil || !strings.Contains(r.err.Error(), "no node of cluster") || !strings.Contains(r.err.Error(), "connection refused") {
		t.Errorf("a cluster that is not there: %v", r.err)
	}
}

func TestVersionNamesTheProducts(t *testing.T) {
	var v versionView
	r := lith(t.Context(), "version", "--json")
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || !strings.HasPrefix(v.Version, image.Version) || v.Go == "" {
		t.Errorf("%v, %v:\n%s", err, r.err, r.out)
	}
	if r := lith(t.Context(), "version"); !strings.HasPrefix(r.out, "lith "+image.Version+" ") {
		t.Errorf("version: %q", r.out)
	}
}

func TestNoCluster(t *testing.T) {
	r := lith(t.Context(), "status", "--cluster", t.TempDir())
	if r.err == nil || !strings.Contains(r.err.Error(), "lith up") {
		t.Errorf("error %v does not say what to do", r.err)
	}
	if r := lith(t.Context(), "status", "--api", "localhost"); r.err == nil || !strings.Contains(r.err.Error(), "http://127.0.0.1:5050") {
		t.Errorf("a bad URL: %v", r.err)
	}
}

func TestInitAndPlan(t *testing.T) {
	dir := t.TempDir()
	file, media := filepath.Join(dir, "cluster.yaml"), filepath.Join(dir, "media")
	r := lith(t.Context(), "init", "demo", "-f", file, "--mac", "52:54:00:00:00:01", "--mac", "52:54:00:00:00:02", "--mac", "52:54:00:00:00:03")
	if r.err != nil || !strings.Contains(r.out, "plaintext") {
		t.Fatalf("init: %v\n%s", r.err, r.out)
	}
	if info, err := os.Stat(filepath.Join(dir, "cluster.secrets.yaml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secrets: %v, %v", info, err)
	}
	if r := lith(t.Context(), "init", "demo", "-f", file, "--mac", "52:54:00:00:00:01"); r.err == nil || !strings.Contains(r.err.Error(), "exists already") {
		t.Errorf("a second init: %v", r.err)
	}
	if r := lith(t.Context(), "plan", "-f", file); r.err != nil || !strings.Contains(r.out, "built-in") {
		t.Errorf("plan: %v\n%s", r.err, r.out)
	}
	var v planView
	if r := lith(t.Context(), "plan", "-f", file, "--json"); json.Unmarshal([]byte(r.out), &v) != nil || len(v.Nodes) != 3 || !v.Nodes[0].Master {
		t.Errorf("plan --json: %v\n%s", r.err, r.out)
	}
	if r := lith(t.Context(), "plan", "-f", file, "-o", media); r.err != nil || !strings.Contains(r.errOut, "revision 1 for 3 nodes") {
		t.Fatalf("plan -o: %v\n%s", r.err, r.errOut)
	}
	raw := readFile(t, filepath.Join(media, "anchor.json"))
	anchor, err := nodedoc.ParseAnchor(raw)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := nodedoc.Open(readFile(t, filepath.Join(media, "nodes", "n-525400000002", "node.json")), anchor)
	if err != nil || doc.Name != "n-525400000002" {
		t.Errorf("node document of %q: %v", doc.Name, err)
	}
	add := append(readFile(t, file), "  - mac: 52:54:00:00:00:04\n"...)
	if err := os.WriteFile(file, add, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := lith(t.Context(), "plan", "-f", file, "-o", media); r.err != nil || !strings.Contains(r.errOut, "revision 2 for 4 nodes") {
		t.Errorf("plan -o after a change: %v\n%s", r.err, r.errOut)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestBadFileChangesNothing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cluster.yaml")
	if r := lith(t.Context(), "init", "demo", "-f", file, "--mac", "52:54:00:00:00:0G"); r.err == nil || !strings.Contains(r.err.Error(), "character 17 is not hexadecimal") {
		t.Errorf("init: %v", r.err)
	}
	bad := []byte("apiVersion: v1\ncluster: demo\nversion: 1\nmasters: 2\nnodes: [{name: a}]\n")
	if err := os.WriteFile(file, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	r := lith(t.Context(), "plan", "-f", file, "-o", filepath.Join(dir, "media"))
	if r.err == nil || !strings.Contains(r.err.Error(), file+":4:10: masters: 2 — an even number") {
		t.Errorf("plan: %v", r.err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if r := lith(t.Context(), "plan", "-f", filepath.Join(dir, "none.yaml")); r.err == nil || !strings.Contains(r.err.Error(), "lith init") {
		t.Errorf("a missing file: %v", r.err)
	}
}

func TestEveryCommandHelps(t *testing.T) {
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if !sub.Hidden && sub.Name() != "completion" && sub.Name() != "help" {
				check(sub)
			}
		}
		if c.Short == "" || c.Example == "" && !c.HasSubCommands() {
			t.Errorf("%s has no help or no example", c.CommandPath())
		}
	}
	check(rootCommand())
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := lith(t.Context(), "completion", shell); r.err != nil || !strings.Contains(r.out, "lith") {
			t.Errorf("completion for %s: %v", shell, r.err)
		}
	}
}

func TestCompletionOfNodes(t *testing.T) {
	f := &targetFlags{api: "x"}
	words, directive := completeNode(f, &cobra.Command{}, []string{"n1"}, "d")
	if d := cmp.Diff([]string{"dmesg\tkernel messages"}, words); d != "" || directive != cobra.ShellCompDirectiveNoFileComp {
		t.Errorf("(-want +got):\n%s", d)
	}
	if words, _ := completeNode(f, &cobra.Command{}, []string{"n1", "logs"}, "cl"); len(words) != 1 || words[0] != "clusterd" {
		t.Errorf("programs: %v", words)
	}
	p := playCluster(t)
	if r := lith(t.Context(), "__complete", "run", "base", "--api", p.server.URL, "--node", ""); !strings.HasPrefix(r.out, "127.0.0.1\n") {
		t.Errorf("the flag --node: %q", r.out)
	}
	if r := lith(t.Context(), "__complete", "up", "--accel", ""); !strings.HasPrefix(r.out, "auto\nkvm\ntcg\n") {
		t.Errorf("the flag --accel: %q", r.out)
	}
}

func TestNamesAndArguments(t *testing.T) {
	for argv, want := range map[string]string{"/bin/Echo": "echo", "./a b.sh": "a", "...": "task"} {
		if got := nameOf("base", []string{argv}); got != want {
			t.Errorf("nameOf(%q) = %q, want %q", argv, got, want)
		}
	}
	if got := nameOf("registry:5000/a/web@sha256:00", nil); got != "web" {
		t.Errorf("name of an image: %q", got)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"run"}, "no image named"},
		{[]string{"run", "--", "echo"}, "no image named"},
		{[]string{"run", "base"}, "no command given"},
		{[]string{"run", "base", "--env", "X", "--", "true"}, "NAME=VALUE"},
		{[]string{"run", "base", "--cpus", "0", "--", "true"}, "more than 0"},
		{[]string{"node", "n1"}, "dmesg"},
		{[]string{"node", "n1", "logs"}, "name one program"},
		{[]string{"node", "n1", "dmesg", "x"}, "takes nothing"},
		{[]string{"node", "n1", "dance"}, "is nothing that a node is asked"},
		{[]string{"logs"}, "name one task"},
		{[]string{"init"}, "name the cluster"},
		{[]string{"status", "extra"}, "takes no arguments, but here stands"},
		{[]string{"tasks", "--wide"}, "see `lith tasks --help`"},
	} {
		args := append(c.args[:1:1], append([]string{"--api", "http://127.0.0.1:1"}, c.args[1:]...)...)
		if c.args[0] == "init" {
			args = c.args
		}
		if r := lith(t.Context(), args...); r.err == nil || !strings.Contains(r.err.Error(), c.want) {
			t.Errorf("lith %v: %v, want %q", c.args, r.err, c.want)
		}
	}
}

func TestPickTask(t *testing.T) {
	view := func(id string, state mesosv1.TaskState) taskView {
		return taskView{ID: id, task: &mesosv1.Task{State: state.Enum()}}
	}
	done, runs := mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_RUNNING
	all := []taskView{view("a-1", done), view("a-2", runs), view("a-3", done), view("b-1", done), view("c-1", runs), view("c-2", runs), view("c", done)}
	for id, want := range map[string]string{"a-1": "a-1", "a": "a-2", "b": "b-1", "c": "c", "c-": "", "x": ""} {
		got, err := pickTask(all, id, &target{name: "demo", nodes: make([]targetNode, 1)})
		if got.ID != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", id, got.ID, err, want)
		}
	}
}
