//go:build vm

package qemutests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// inspected is what the tests' program finds when it looks at everything.
type inspected struct {
	Rows  []insideRow
	Tried map[string]int
}

type insideRow struct{ Section, Name, Value string }

// insideTable is the golden table; UPDATE_GOLDEN=1 writes it anew.
const insideTable = "testdata/inside.txt"

// Everything that a task finds and may do, found out from inside and compared with a table
// that people can read: as root and as a user, with an image and without, in a network of
// its own and in the node's.
func TestEverythingFromInside(t *testing.T) {
	w := three(t)
	own, host := w.framework(t, false), w.frameworkAs(t, hostRole)
	machines := w.Machines()
	program := serveFile(t, w, taskProgram())
	var columns []string
	var tables [][]insideRow
	launch := map[*framework][]client.Task{}
	for i, network := range []string{"", ", node's network"} {
		on, other := machines[i].Node.Address.String(), machines[len(machines)-1].Node.Address.String()
		f, doors := own, []string{"inspect", "gateway", "its node=" + on, "another node=" + other, "loopback=127.0.0.1"}
		if network != "" {
			f, doors = host, append([]string{"inspect"}, doors[2:]...)
		}
		for _, image := range []string{"", ", no image"} {
			for _, user := range []string{"root", "user"} {
				kind := user + image + network
				if len(insideKinds) > 0 && !slices.Contains(insideKinds, kind) {
					continue
				}
				columns = append(columns, kind)
				task := f.task(t, strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(kind), doors...)
				task.MemMB, task.Hostname = 48, on
				if user == "user" {
					task.Command.User = proto.String("1000")
				}
				if image+network == "" { // all have the same sysfs, or none
					task.Command.Arguments = append(task.Command.Arguments, "sysfs")
				}
				if image != "" {
					line := fmt.Sprintf("wget -q -O inside %s && chmod 755 inside && exec ./inside '%s'", program, strings.Join(doors, "' '"))
					task.Container, task.Command = nil, &mesosv1.CommandInfo{Value: &line, User: task.Command.User}
				}
				launch[f] = append(launch[f], task)
			}
		}
	}
	tried := map[string]int{}
	ctx := within(t, toRun+4*len(columns))
	for f, tasks := range launch {
		if err := f.Add(ctx, tasks...); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []*framework{own, host} {
		for _, task := range launch[f] {
			l, err := f.Wait(ctx, task.ID, client.Ended)
			if err != nil {
				t.Fatal(err)
			}
			if l.Status.GetState() != mesosv1.TaskState_TASK_FINISHED {
				t.Fatalf("task %s ended as %s: %s", l.Task.ID, l.Status.GetState(), f.output(t, l, "stderr"))
			}
			var found inspected
			if err := json.Unmarshal([]byte(lastLine(f.output(t, l, "stdout"))), &found); err != nil {
				t.Fatal(err)
			}
			for what, n := range found.Tried {
				tried[what] += n
			}
			tables = append(tables, found.Rows)
		}
	}
	n := len(columns)
	for what, least := range map[string]int{
		"system calls": n * 471, "attempts": n * 30, "escapes": n * 20, "doors": n * 25,
		"files of /proc opened for writing": n * 1000, "files of /sys opened for writing": 5000, "devices made": n * 13,
	} {
		if tried[what] < least {
			t.Errorf("only %d %s, at least %d were to be tried", tried[what], what, least)
		}
	}
	t.Logf("tried in %d kinds of task: %v", len(columns), tried)
	for i, table := range tables {
		for _, r := range table {
			if (r.Section == "attempts" || r.Section == "escapes") && r.Value == "allowed" {
				t.Errorf("a task (%s) may %s", columns[i], r.Name)
			}
		}
	}
	if len(insideKinds) == 0 {
		compareGolden(t, insideTable, writeInside(t, w, columns, tables))
		return
	}
	if len(columns) != len(insideKinds) {
		t.Errorf("of %q only %q were tried", insideKinds, columns)
	}
	for i, kind := range columns {
		compareKind(t, kind, worded(t, w, tables[i]))
	}
}

// compareGolden compares a text with a file of testdata, or writes that.
func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s says otherwise (UPDATE_GOLDEN=1 writes it anew, for review):\n%s", file, diff)
	}
}

// serveFile hands a file to whoever asks for it on the LAN.
func serveFile(t *testing.T, w *world, path string) (url string) {
	t.Helper()
	const port = 5004
	ln, err := w.LAN.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { http.ServeFile(rw, r, path) })}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	return fmt.Sprintf("http://%s:%d/program", w.LAN.Gateway(), port)
}
