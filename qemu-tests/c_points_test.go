//go:build vm

package qemutests

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// ways are how the tasks end whose programs' keepers die: each with the line that it runs
// and what has to be told of it.
var ways = map[string]struct {
	line   string
	kill   bool
	state  mesosv1.TaskState
	reason mesosv1.TaskStatus_Reason
	says   string
}{
	"exits": {
		line:  "exit 7",
		state: mesosv1.TaskState_TASK_FAILED, reason: none, says: "Command exited with status 7",
	},
	"killed": {
		line: "trap 'exit 3' TERM; while :; do sleep 0.1; done", kill: true,
		state: mesosv1.TaskState_TASK_KILLED, reason: none, says: "Command exited with status 3",
	},
	"eats": {
		line:  "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 1",
		state: mesosv1.TaskState_TASK_FAILED, reason: mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY, says: "Memory limit exceeded",
	},
	"fills": {
		line:  "dd if=/dev/zero of=big bs=1M count=20; while :; do sleep 1; done",
		state: mesosv1.TaskState_TASK_FAILED, reason: mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK, says: "Disk limit exceeded",
	},
}

// walk is every point, in tasks whose way comes past them.
func walk(t *testing.T) []string {
	way := map[fault.Point]string{
		fault.KillRecord: "killed", fault.Terminated: "killed", fault.AgentKill: "killed", fault.LeaderKill: "killed", fault.Limited: "fills",
	}
	byWay := map[string][]string{}
	for _, p := range slices.Concat(fault.Isolated, fault.Clusterd) {
		w := way[p]
		if w == "" {
			w = "exits"
		}
		byWay[w] = append(byWay[w], string(p))
	}
	var ids []string
	for _, w := range slices.Sorted(maps.Keys(byWay)) {
		// One task's points are far from each other: who comes back after one may not come
		// past the next.
		points := byWay[w]
		tasks := (len(points) + deathsOfATask - 1) / deathsOfATask
		for i := range tasks {
			id := fault.Sign
			for k := i; k < len(points); k += tasks {
				id += points[k] + "."
			}
			ids = append(ids, id+w)
		}
	}
	// What ended a task is known also to who was not there, and two deaths are as good as one.
	ids = append(ids, fault.Sign+"noticed.eats", fault.Sign+"killed.fills", fault.Sign+"start.net-unaddress.done.exits",
		fault.Sign+"exec.kill-record.drained.killed", fault.Sign+"agent-launch.agent-update.agent-settled.exits")
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 2))
	for i := range pairs {
		a, b := fault.Isolated[rng.IntN(len(fault.Isolated))], fault.Isolated[rng.IntN(len(fault.Isolated))]
		ids = append(ids, fmt.Sprintf("%s%s.%s.pair%d.exits", fault.Sign, a, b, i))
	}
	t.Logf("%d pairs of points by seed %d", pairs, seed)
	return ids
}

// lookEvery is after how many tasks it is looked what is left of them.
const lookEvery = 4

// The programs of a node die by SIGKILL, and no task notices.
func TestProgramsDie(t *testing.T) {
	apart(t, 1)
	w := newWorld(t, options{nodes: 1, memoryMB: 1024 + 30*killTasks, image: faultyImage(t)})
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	t.Run("at every point", w.dieAtEveryPoint)
	t.Run("many times", w.dieManyTimes)
}

// dieAtEveryPoint kills isolated and clusterd after each step of a container's life, from
// the launch in the log to the last trace removed. Each task has run exactly once, its end
// is told as it was, and nothing of it is left on the machine.
func (w *world) dieAtEveryPoint(t *testing.T) {
	stopwatch(t)
	only := w.Machines()[0].Node
	w.serveFetched(t)
	f := w.framework(t, false)
	wantState(t, f.runToEnd(t, w.faulty("unpacks.exits"))[0], mesosv1.TaskState_TASK_FAILED)
	w.wantNothingLeft(t, only)
	ids := walk(t)
	for batch := range slices.Chunk(ids, lookEvery) {
		began := time.Now()
		for _, id := range batch {
			f.dieAt(t, id)
		}
		w.wantNothingLeft(t, only)
		fmt.Printf("%s: %.1f s\n", strings.Join(batch, " "), time.Since(began).Seconds())
	}
	struck := w.struck(t, only)
	for _, p := range slices.Concat(fault.Isolated, fault.Clusterd) {
		if struck[p] == 0 {
			t.Errorf("nothing died after %s", p)
		}
		delete(struck, p)
	}
	if len(struck) > 0 {
		t.Errorf("points that nobody knows: %v", struck)
	}
	fmt.Printf("%d of %d points of isolated and %d of %d of clusterd, %d tasks: each ran once, nothing is left\n",
		len(fault.Isolated), len(fault.Isolated), len(fault.Clusterd), len(fault.Clusterd), len(ids))
}

// faulty is a task whose id says where programs die and how it ends.
func (w *world) faulty(id string) client.Task {
	way := ways[id[strings.LastIndex(id, ".")+1:]]
	task := client.Task{
		ID: id, CPUs: 0.05, MemMB: 32, Ports: 1,
		Command: &mesosv1.CommandInfo{Value: proto.String("echo born $(cat /proc/sys/kernel/random/uuid); " + way.line)},
	}
	if strings.HasSuffix(id, "fills") {
		task.DiskMB = 10
	}
	if slices.ContainsFunc(ofVolumes, func(p fault.Point) bool { return strings.Contains(id, "."+string(p)+".") }) {
		task.Command.Uris = []*mesosv1.CommandInfo_URI{{Value: proto.String(fmt.Sprintf("http://%s:%d/fetched", w.LAN.Gateway(), fetchPort))}}
		task.Command.Value = proto.String("cat fetched secret > /dev/null || exit 9; " + task.Command.GetValue())
		task.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: []*mesosv1.Volume{{
			Mode: mesosv1.Volume_RO.Enum(), ContainerPath: proto.String("secret"), Source: &mesosv1.Volume_Source{
				Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("hush")}},
			},
		}}}
	}
	return task
}

// ofVolumes are points at which there is something only of tasks with files that are
// fetched and volumes that are mounted.
var ofVolumes = []fault.Point{fault.Fetched, fault.Mounted, fault.Left, fault.Unvolumed}

// fetchPort is where the files of those tasks are to be had.
const fetchPort = 5009

func (w *world) serveFetched(t *testing.T) {
	t.Helper()
	ln, err := w.LAN.Listen(fetchPort)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "fetched") })}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
}

func (f *framework) dieAt(t *testing.T, id string) {
	t.Helper()
	ctx := within(t, 2*toNotice)
	if err := f.Add(ctx, f.world.faulty(id)); err != nil {
		t.Fatal(err)
	}
	way := ways[id[strings.LastIndex(id, ".")+1:]]
	if way.kill {
		l, err := f.Wait(ctx, id, client.Running)
		if err != nil {
			t.Fatal(err)
		}
		f.wantOneBirth(t, l) // and listens
		if err := f.Kill(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	l, err := f.Wait(ctx, id, client.Ended)
	if err != nil {
		t.Fatal(err)
	}
	if l.Status.GetState() != way.state || l.Status.GetReason() != orNone(way.reason) || !strings.Contains(l.Status.GetMessage(), way.says) {
		t.Errorf("%s ended as %s (%s: %s), want %s (%s: %s)",
			id, l.Status.GetState(), l.Status.GetReason(), l.Status.GetMessage(), way.state, way.reason, way.says)
	}
	f.wantOneBirth(t, l)
	if strings.Contains(id, ".pair") {
		return // not every way comes past any two
	}
	// Some points come after the end is told; the next death must not come before.
	for _, name := range strings.Split(id, ".") {
		for program, points := range map[string][]fault.Point{"isolated": fault.Isolated, "clusterd": fault.Clusterd} {
			if !slices.Contains(points, fault.Point(name)) {
				continue
			}
			eventually(t, within(t, toRun), func() error {
				if len(f.world.said(t, f.world.Machines()[0].Node, program, "fault: dies after "+name+" of ")) == 0 {
					return fmt.Errorf("%s: nothing died after %s", id, name)
				}
				return nil
			})
		}
	}
}

// wantOneBirth waits until a task's output can be read and shows that it was born, once.
func (f *framework) wantOneBirth(t *testing.T, l client.Launched) {
	t.Helper()
	var got []string
	eventually(t, within(t, toRun), func() error {
		out, err := f.tryOutput(t, l, "stdout")
		if got = births(out); err == nil && len(got) == 0 {
			err = fmt.Errorf("%s has not said that it was born: %q", l.Task.ID, out)
		}
		return err
	})
	if len(got) != 1 {
		t.Errorf("%s was born %d times: %v", l.Task.ID, len(got), got)
	}
}

// orNone is what a status without a reason gives.
func orNone(r mesosv1.TaskStatus_Reason) mesosv1.TaskStatus_Reason {
	if r == none {
		return (&mesosv1.TaskStatus{}).GetReason()
	}
	return r
}

// wantNothingLeft waits until isolated finds nothing of any container on the machine, in
// the kernel or on the disk.
func (w *world) wantNothingLeft(t *testing.T, n cluster.Node) {
	t.Helper()
	eventually(t, within(t, toRun), func() error {
		left, err := w.inventory(t, n)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left on %s: %v", n.Name, left)
		}
		return err
	})
}

// inventory asks a machine of the faulty image what there is of containers.
func (w *world) inventory(t *testing.T, n cluster.Node) (map[string][]string, error) {
	api := w.nodeAPI(n)
	before := len(w.said(t, n, "isolated", `"msg":"inventory"`))
	var lines []string
	var asked time.Time
	eventually(t, within(t, toRun), func() error {
		// One that has just been started does not listen yet, and would die of the signal.
		pid := pidOf(t, w, n, "isolated")
		if len(w.said(t, n, "isolated", fmt.Sprintf(`"msg":"inventory can be asked for","pid":%d}`, pid))) == 0 {
			return fmt.Errorf("isolated on %s does not listen yet", n.Name)
		}
		if time.Since(asked) > 3*time.Second {
			if err := api.Kill(t.Context(), "isolated", "USR1"); err != nil {
				return err
			}
			asked = time.Now()
		}
		if lines = w.said(t, n, "isolated", `"msg":"inventory"`); len(lines) <= before {
			return fmt.Errorf("isolated on %s does not say what there is", n.Name)
		}
		return nil
	})
	var line struct{ Found map[string][]string }
	if err := json.Unmarshal([]byte(lines[len(lines)-1][strings.Index(lines[len(lines)-1], "{"):]), &line); err != nil {
		return nil, err
	}
	return line.Found, nil
}

// said are the lines of a program's log that hold a text.
func (w *world) said(t *testing.T, n cluster.Node, program, text string) []string {
	t.Helper()
	var out []string
	eventually(t, within(t, toRun), func() error {
		log, err := w.nodeAPI(n).Logs(t.Context(), program, false)
		if err != nil {
			return err
		}
		defer log.Close()
		raw, err := io.ReadAll(log)
		if err != nil {
			return err
		}
		out = out[:0]
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, text) {
				out = append(out, strings.TrimSpace(line))
			}
		}
		return nil
	})
	return out
}

// struck counts the points after which programs have died, by their own last words.
func (w *world) struck(t *testing.T, n cluster.Node) map[fault.Point]int {
	t.Helper()
	out := map[fault.Point]int{}
	for _, program := range []string{"isolated", "clusterd"} {
		died := 0
		for _, line := range w.said(t, n, program, "fault: dies after ") {
			_, rest, _ := strings.Cut(line, "fault: dies after ")
			point, _, _ := strings.Cut(rest, " ")
			out[fault.Point(point)]++
			died++
		}
		if again := restarts(t, w, n, program); again != died {
			t.Errorf("%s died %d times at points and was started again %d times", program, died, again)
		}
	}
	fmt.Printf("deaths by point: %v\n", slices.Sorted(maps.Keys(out)))
	return out
}
