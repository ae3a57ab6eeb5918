//go:build vm

package qemutests

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// sourcesFile has a master and three workers; each gets its document another way.
const sourcesFile = `apiVersion: v1
cluster: sources
version: 0.1.0
masters: 1
api: { plaintext: true, anonymous: framework }
defaults:
  time: { servers: [dhcp], wait: 1s }
nodes:
  - { name: n1, mac: "52:54:00:00:04:01" }
  - { name: url, mac: "52:54:00:00:04:02" }
  - { name: stick, mac: "52:54:00:00:04:03" }
  - { name: wrong, mac: "52:54:00:00:04:04" }
`

// documentPort is where the gateway serves the node document.
const documentPort = 8088

// A worker gets its document by a URL on the kernel's command line, another from a stick
// labelled MESOLITH; both are let in by the master, by join/1, and run tasks. A third has
// another machine's key and never gets in: its console and the master's say why, and the
// cluster does not change.
func TestDocumentsFromElsewhereAndAWrongSecret(t *testing.T) {
	apart(t, 4)
	stopwatch(t)
	stick := filepath.Join(t.TempDir(), "stick.img")
	var document []byte
	w := newWorld(t, options{file: sourcesFile, prepare: true, spoil: func(r *cluster.Rendered) {
		anchor, err := nodedoc.ParseAnchor(r.AnchorJSON)
		if err != nil {
			t.Fatal(err)
		}
		inline, err := anchor.Inline()
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Nodes {
			n := &r.Nodes[i]
			switch n.Name {
			case "url":
				document = n.Files["node.json"]
				n.Cmdline = fmt.Sprintf("mesolith.node=http://%s:%d/node mesolith.anchor=%s", r.Subnet.Addr().Next(), documentPort, inline)
				n.Files = map[string][]byte{"node.key": n.Files["node.key"]}
			case "stick":
				makeStick(t, stick, n.Files)
				n.Files, n.Disks = nil, []vm.Disk{{File: stick, Serial: "STICK"}}
			case "wrong":
				n.Files["node.key"] = r.Nodes[0].Files["node.key"]
			}
		}
	}})
	serveDocument(t, w, document)
	for _, name := range []string{"n1", "url", "stick"} {
		if err := w.Machine(name).PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"url": fmt.Sprintf(":%d/node", documentPort), "stick": "medium MESOLITH on "} {
		health, err := w.nodeAPI(w.Machine(name).Node).Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if health.Name != name || !strings.Contains(health.Source, from) {
			t.Errorf("%s has its document from %q, want %q", health.Name, health.Source, from)
		}
	}
	f := w.framework(t, false)
	var tasks []client.Task
	for _, name := range []string{"url", "stick"} {
		task := f.task(t, "on-"+name, "say", "hello")
		task.Hostname = w.Machine(name).Node.Address.String()
		tasks = append(tasks, task)
	}
	for _, ended := range f.runToEnd(t, tasks...) {
		wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
	}

	wrong := w.Machine("wrong")
	if err := wrong.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		console *vm.Console
		says    string
	}{
		{wrong.VM().Console, "certificate: none yet: refused: "},
		{wrong.VM().Console, "the boot credential presented for wrong is not the one that the cluster file's owner made for it"},
		{w.Machine("n1").VM().Console, `a machine may not join","room":"join","node":"wrong"`},
	} {
		if _, err := c.console.Wait(within(t, toElect), 0, c.says); err != nil {
			t.Fatalf("nobody says %q: %v", c.says, err)
		}
	}
	agents, err := w.Agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) != 3 {
		t.Errorf("%d agents, the impostor among them: %v", len(agents), agents)
	}
	// The power button is an orderly end.
	if err := w.Machine("stick").PowerOff(within(t, toRun)); err != nil {
		t.Error(err)
	}
	console := w.Machine("stick").VM().Console
	for _, line := range []string{"going down: power button", "phase stop-clusterd", "phase stop-tasks", "phase unmount", "power off"} {
		if _, err := console.Wait(t.Context(), 0, line); err != nil {
			t.Errorf("the console does not say %q: %v", line, err)
		}
	}
}

// makeStick makes the image of a FAT file system with our label.
func makeStick(t *testing.T, path string, files map[string][]byte) {
	t.Helper()
	const size = 64 << 20
	disk, err := file.CreateFromPath(path, size)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	volume, err := fat32.Create(disk, size, 0, 512, "MESOLITH", false)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range files {
		f, err := volume.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(body); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// serveDocument hands the document to the machine whose card asks for it.
func serveDocument(t *testing.T, w *world, document []byte) {
	t.Helper()
	l, err := w.LAN.Listen(documentPort)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/node" || r.FormValue("mac") != "52:54:00:00:04:02" {
			http.NotFound(out, r)
			return
		}
		_, _ = out.Write(document)
	})}
	go server.Serve(l) // it ends with Close
	t.Cleanup(func() { server.Close() })
}

// A machine's clone, with the same key and so the same name, is a second vote: both stop
// voting when they meet, and say what to do.
func TestClonedMasterStopsVoting(t *testing.T) {
	apart(t, 2)
	stopwatch(t)
	w := newWorld(t, options{file: fmt.Sprintf(closedFile, "cloned", "n1", "52:54:00:00:05:01"), prepare: true, spoil: func(r *cluster.Rendered) {
		clone := r.Nodes[0]
		clone.Name, clone.UUID, clone.Serial = "clone", "", "another"
		clone.MAC = append(clone.MAC[:5:5], 2)
		clone.Address = clone.Address.Next()
		r.Nodes = append(r.Nodes, clone)
	}})
	if err := w.Machine("n1").PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WaitLeader(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	if err := w.Machine("clone").PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.Machines() {
		line, err := m.VM().Console.Wait(within(t, toElect), 0, "cluster: n1 has stopped voting: another machine named n1 ")
		if err != nil {
			t.Fatalf("%s does not say that it stopped: %v", m.Node.Name, err)
		}
		if !strings.Contains(line.Text, "switch one of the two off, then restart the other") {
			t.Errorf("%s does not say what to do: %s", m.Node.Name, line.Text)
		}
		health, err := w.nodeAPI(m.Node).Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(health.Status.Summary, "has stopped voting") {
			t.Errorf("status of %s: %q", m.Node.Name, health.Status.Summary)
		}
	}
	// The operator decides: one goes, the other is started again and leads.
	w.Machine("clone").PowerCut()
	if err := w.nodeAPI(w.Machine("n1").Node).Reboot(t.Context(), "the clone is gone"); err != nil {
		t.Fatal(err)
	}
	console := w.Machine("n1").VM().Console
	if _, err := console.Wait(within(t, toRun), 0, "going down: the clone is gone"); err != nil {
		t.Fatal(err)
	}
	mark := console.Len()
	if _, err := console.Wait(within(t, toElect), mark, "cluster: n1 leads"); err != nil {
		t.Fatal(err)
	}
}

// A kernel that panics reboots by itself, and what it said last is a log of the next boot:
// the firmware kept it.
func TestACrashLeavesItsTrace(t *testing.T) {
	apart(t, 1)
	stopwatch(t)
	store := filepath.Join(t.TempDir(), "erst")
	w := newWorld(t, options{file: fmt.Sprintf(closedFile, "crash", "n1", "52:54:00:00:06:01"), memoryMB: roomForRecords, spoil: func(r *cluster.Rendered) {
		r.Nodes[0].Cmdline = "unknown_nmi_panic"
		r.Nodes[0].QEMU = []string{"-object", "memory-backend-file,id=erst,size=65536,share=on,mem-path=" + store, "-device", "acpi-erst,memdev=erst"}
	}})
	if _, err := w.WaitLeader(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	m := w.Machine("n1")
	before, err := w.nodeAPI(m.Node).Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mark := m.VM().Console.Len()
	if _, err := m.VM().Execute(t.Context(), "inject-nmi", nil); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"Kernel panic - not syncing", "how the last boot ended: kernel panic: NMI", "cluster: n1 leads"} {
		if _, err := m.VM().Console.Wait(within(t, toElect), mark, line); err != nil {
			t.Fatalf("the console does not say %q: %v", line, err)
		}
	}
	after, err := w.nodeAPI(m.Node).Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.BootID == before.BootID {
		t.Error("it is the same boot")
	}
	log := whole(t, func() (io.ReadCloser, error) { return w.nodeAPI(m.Node).Logs(t.Context(), "crash", false) })
	if !strings.Contains(log, "record dmesg-erst-") || !strings.Contains(log, "Kernel panic - not syncing") {
		t.Errorf("the log says %.2000s", log)
	}
}
