//go:build vm

package qemutests

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

const insideHead = `What a task finds and may do on a node, as a program in its container found out. One line is
for every kind of task; where kinds differ, the first line is root's with an image and a network of its
own, and those that differ follow, indented.

A task here has 0.05 CPUs and 48 MB of memory. Errors are the kernel's. System calls were answered by the
container's filter without being made: what it allows is then subject to the task's capabilities, which
hold in its own user namespace only. A door that gives no answer by UDP is shut, or somebody listens there
who does not know the caller.
`

// worded is a table of what was found out, in the words of the golden one.
func worded(t *testing.T, w *world, table []insideRow) []insideRow {
	t.Helper()
	return callsByVerdict(t, plainer(t, w, sayNamespaces(table)))
}

// writeInside words the tables of all kinds of task as one.
func writeInside(t *testing.T, w *world, columns []string, tables [][]insideRow) string {
	t.Helper()
	for i, table := range tables {
		tables[i] = worded(t, w, table)
	}
	var b strings.Builder
	b.WriteString(insideHead)
	section := ""
	for _, key := range keysOf(tables) {
		if key.Section != section {
			section = key.Section
			fmt.Fprintf(&b, "\n== %s\n", section)
		}
		values := make([]string, len(tables))
		for i, table := range tables {
			values[i] = noSuchLine
			for _, r := range table {
				if r.Section == key.Section && r.Name == key.Name {
					values[i] = r.Value
				}
			}
		}
		fmt.Fprintf(&b, "%-44s %s\n", key.Name, values[0])
		for i, v := range values {
			if v == values[0] || slices.Contains(values[:i], v) {
				continue
			}
			var who []string
			for j := i; j < len(values); j++ {
				if values[j] == v {
					who = append(who, columns[j])
				}
			}
			fmt.Fprintf(&b, "    %-40s %s\n", strings.Join(who, "; ")+":", v)
		}
	}
	return b.String()
}

// keysOf are the lines of all tables, in the order of the first that has them.
func keysOf(tables [][]insideRow) []insideRow {
	var sections []string
	seen := map[insideRow]bool{}
	bySection := map[string][]insideRow{}
	for _, table := range tables {
		for _, r := range table {
			key := insideRow{Section: r.Section, Name: r.Name}
			if seen[key] {
				continue
			}
			seen[key] = true
			if !slices.Contains(sections, r.Section) {
				sections = append(sections, r.Section)
			}
			bySection[r.Section] = append(bySection[r.Section], key)
		}
	}
	var out []insideRow
	for _, s := range sections {
		out = append(out, bySection[s]...)
	}
	return out
}

// sayNamespaces says whose a task's namespaces are. The kernel numbers PID 1's always
// alike, but for the mounts and the network: those are the node's when they show what
// only the node has.
func sayNamespaces(table []insideRow) []insideRow {
	nodes := map[string]bool{}
	for _, r := range table {
		switch {
		case r.Name == "network interfaces" && slices.Contains(strings.Fields(r.Value), "mesos0"):
			nodes["net"] = true
		case r.Section == "mounts" && (r.Name == "/store" || r.Name == "/var/lib/mesolith"):
			nodes["mnt"] = true
		case r.Section == "namespaces" && (r.Value == initialNamespaces[r.Name] || r.Value == "time:[4026531834]"):
			nodes[r.Name] = true
		}
	}
	out := slices.Clone(table)
	for n, r := range out {
		if r.Section == "namespaces" {
			out[n].Value = map[bool]string{true: "the node's", false: "its own"}[nodes[r.Name]]
		}
	}
	return out
}

// plainer puts words in place of what differs from run to run, and of numbers.
func plainer(t *testing.T, w *world, table []insideRow) []insideRow {
	t.Helper()
	out := slices.Clone(table)
	for i, r := range out {
		v := &out[i].Value
		switch {
		case r.Name == "user ids" || r.Name == "group ids":
			*v = idRange(r.Value)
		case r.Name == "host name":
			*v = "its own"
			for _, m := range w.Machines() {
				if m.Node.Name == r.Value {
					*v = "the node's"
				}
			}
		case r.Name == "network interfaces":
			*v = strings.Join(slices.DeleteFunc(strings.Fields(r.Value), func(name string) bool { return strings.HasPrefix(name, "veth") }), " ")
		case r.Name == "pending signals":
			*v = "by the node's memory"
		case r.Section == "capabilities":
			*v = capabilityNames(r.Value)
		}
	}
	return out
}

func idRange(rows string) string {
	f := strings.Fields(rows)
	if len(f) != 3 || f[0] != "0" || f[2] != "65536" {
		return rows
	}
	if first, err := strconv.Atoi(f[1]); err != nil || first < 65536 {
		return rows
	}
	return "0 to 65535, of the node's a range of its own"
}

func capabilityNames(numbers string) string {
	var out []string
	for _, text := range strings.Fields(numbers) {
		n, err := strconv.Atoi(text)
		if err != nil {
			return numbers
		}
		out = append(out, mesosv1.CapabilityInfo_Capability(1000+n).String())
	}
	return strings.Join(out, " ")
}

// callsByVerdict puts one line for each verdict in place of one for each system call.
func callsByVerdict(t *testing.T, table []insideRow) []insideRow {
	t.Helper()
	names := callNames(t)
	by := map[string][]string{}
	var out []insideRow
	for _, r := range table {
		if r.Section != "calls" {
			continue
		}
		n, err := strconv.Atoi(r.Name)
		if err != nil {
			t.Fatal(err)
		}
		name := names[n]
		if name == "" {
			name = r.Name
		}
		by[r.Value] = append(by[r.Value], name)
	}
	for _, r := range table {
		switch {
		case r.Section != "calls":
			out = append(out, r)
		case len(by) > 0:
			for _, verdict := range []string{"allowed", "EPERM", "ENOSYS"} {
				out = append(out, callLines(verdict, by[verdict])...)
				delete(by, verdict)
			}
			for verdict, list := range by {
				out = append(out, callLines(verdict, list)...)
			}
			clear(by)
		}
	}
	return out
}

// callLines are the calls of one verdict, those that begin with one letter in a line.
func callLines(verdict string, calls []string) []insideRow {
	section := "system calls that the filter refuses: " + verdict
	switch verdict {
	case "allowed":
		section = "system calls that the filter allows"
	case "not asked":
		section = "system calls that no filter sees: the kernel's own, SIGILL for everybody else"
	}
	by := map[string][]string{}
	for _, c := range calls {
		by[c[:1]] = append(by[c[:1]], c)
	}
	var out []insideRow
	for _, letter := range strings.Split("abcdefghijklmnopqrstuvwxyz_0123456789", "") {
		if list := by[letter]; len(list) > 0 {
			slices.Sort(list)
			out = append(out, insideRow{section, letter, strings.Join(list, " ")})
		}
	}
	return out
}

// callNames reads the names of amd64's system calls out of the module that has them.
func callNames(t *testing.T) map[int]string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "unix/zsysnum_linux_amd64.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Names) != 1 || len(v.Values) != 1 {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok {
			if number, err := strconv.Atoi(lit.Value); err == nil {
				names[number] = strings.ToLower(strings.TrimPrefix(v.Names[0].Name, "SYS_"))
			}
		}
		return true
	})
	if len(names) < 300 {
		t.Fatalf("only %d system calls have names", len(names))
	}
	return names
}
