package run

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/spec"
)

// brings is a launch of a line with volumes of the task's own.
func brings(id, line string, volumes ...*mesosv1.Volume) *keeper.Launch {
	l := launchOf(id, line)
	task := &mesosv1.TaskInfo{}
	if err := proto.Unmarshal(l.TaskInfo, task); err != nil {
		panic(err)
	}
	task.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: volumes}
	var err error
	if l.TaskInfo, err = proto.Marshal(task); err != nil {
		panic(err)
	}
	return l
}

func from(at, host string, mode mesosv1.Volume_Mode) *mesosv1.Volume {
	return &mesosv1.Volume{ContainerPath: &at, HostPath: &host, Mode: &mode}
}

func secret(at, value string) *mesosv1.Volume {
	return &mesosv1.Volume{ContainerPath: &at, Mode: mesosv1.Volume_RO.Enum(), Source: &mesosv1.Volume_Source{
		Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte(value)}},
	}}
}

// A plain process finds its volumes in its sandbox; its secrets are in memory and gone with
// it.
func TestVolumesOfPlainProcesses(t *testing.T) {
	h := newHouse(t)
	shared := t.TempDir()
	h.launch(brings("c", "echo x > there/f; echo y > b/g; cat a/g deep/key; stat -c %a deep/key -L; stat -f -c %T -L deep/key",
		from("there", shared, mesosv1.Volume_RW), from("b", "a", mesosv1.Volume_RW), secret("deep/key", "hidden\n")))
	c := h.until("c", gone)
	if got := h.output(c, "stdout"); got != "y\nhidden\n400\ntmpfs\n" {
		t.Errorf("it said %q (%v)", got, c)
	}
	if raw, err := os.ReadFile(filepath.Join(shared, "f")); err != nil || string(raw) != "x\n" {
		t.Errorf("the node's file has %q, %v", raw, err)
	}
	for _, left := range []string{secretsDir("c"), h.k.mountsDir("c")} {
		if _, err := os.Lstat(left); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
	for id, test := range map[string]struct {
		v    *mesosv1.Volume
		want string
	}{
		"ro":       {from("a", shared, mesosv1.Volume_RO), "read only"},
		"absolute": {secret("/etc/key", "x"), "without isolation"},
		"nowhere":  {from("../a", shared, mesosv1.Volume_RW), "no place for a volume"},
	} {
		h.launch(brings(id, "true", test.v))
		if c := h.until(id, gone); c.GetFailure() != keeper.Container_INVALID_TASK || !strings.Contains(c.GetMessage(), test.want) {
			t.Errorf("%s: %v", id, c)
		}
	}
	h.launch(brings("missing", "true", from("a", filepath.Join(shared, "none"), mesosv1.Volume_RW)))
	if c := h.until("missing", gone); c.GetFailure() != keeper.Container_LAUNCH || !strings.Contains(c.GetMessage(), "container.volumes[0] at a") {
		t.Errorf("missing: %v", c)
	}
}

// withIDs is a runtime as nodes have it, as far as volumes go.
type withIDs struct{ Processes }

func (withIDs) IDs() bool { return true }

// What a container's mounts are made of is where it should be and nowhere else, however
// somebody has laid links there, and taking it away touches nothing of it.
func TestVolumesOfContainers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	h := newHouse(t)
	h.k.runtime = withIDs{}
	defer func() { h.k.runtime = h.k.cfg.Runtime }()
	allowed, outside := t.TempDir(), t.TempDir()
	for path, body := range map[string]string{allowed + "/file": "file", outside + "/private": "private"} {
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, allowed+"/evil"); err != nil {
		t.Fatal(err)
	}
	h.k.configure = &keeper.Configure{HostPaths: []string{allowed}}
	sandbox := t.TempDir()
	prepare := func(id string, volumes ...*mesosv1.Volume) (*Job, error) {
		j := &Job{ID: id, Launch: brings(id, "true", volumes...), FirstID: 5 * slotSize, User: spec.User{UID: 7, GID: 8}, Rootfs: "/none"}
		j.Paths = paths{sandbox: sandbox}
		if err := j.decode(); err != nil {
			t.Fatal(err)
		}
		if err := h.k.wantVolumes(j); err != nil {
			return j, err
		}
		return j, h.k.mountVolumes(j)
	}
	j, err := prepare("c", from("all", allowed, mesosv1.Volume_RO), from("/f", allowed+"/file", mesosv1.Volume_RW), from("/own", "mine/dir", mesosv1.Volume_RW), secret("key", "hidden"))
	if err != nil && strings.Contains(err.Error(), "operation not permitted") {
		t.Skip("this machine does not let root mount: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range j.Mounts {
		var st unix.Stat_t
		if err := unix.Stat(m.From, &st); err != nil {
			t.Fatal(err)
		}
		if m.Own && (st.Uid != j.FirstID+7 || st.Gid != j.FirstID+8) {
			t.Errorf("%s is %d:%d's", m.Path, st.Uid, st.Gid)
		}
		got = append(got, m.Path)
	}
	if strings.Join(got, " ") != "all /f /own key" || !j.Mounts[0].ReadOnly || j.Mounts[0].Own || !j.Mounts[2].Own {
		t.Errorf("mounts %+v", j.Mounts)
	}
	if raw, err := os.ReadFile(j.Mounts[1].From); err != nil || string(raw) != "file" {
		t.Errorf("the file: %q, %v", raw, err)
	}
	if raw, err := os.ReadFile(j.Mounts[3].From); err != nil || string(raw) != "hidden" {
		t.Errorf("the secret: %q, %v", raw, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(j.Mounts[3].From, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("the secret is on a file system of type %x, %v", st.Type, err)
	}
	for range 2 {
		if err := h.k.unmountVolumes("c"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(h.k.mountsDir("c")); !os.IsNotExist(err) {
		t.Errorf("the places are left: %v", err)
	}
	if raw, err := os.ReadFile(allowed + "/file"); err != nil || string(raw) != "file" {
		t.Errorf("the node's file is %q, %v", raw, err)
	}
	if err := os.Symlink(outside, sandbox+"/out"); err != nil {
		t.Fatal(err)
	}
	for id, test := range map[string]struct {
		v    *mesosv1.Volume
		want string
	}{
		"evil": {from("a", allowed+"/evil", mesosv1.Volume_RW), "leads out of"},
		"deep": {from("a", allowed+"/evil/private", mesosv1.Volume_RW), "leads out of"},
		"out":  {from("a", "out", mesosv1.Volume_RW), "escapes"},
		"none": {from("a", allowed+"/none", mesosv1.Volume_RW), "is not there on this node"},
		"else": {from("a", outside, mesosv1.Volume_RW), "tasks.hostPaths"},
	} {
		if _, err := prepare(id, test.v); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", id, err, test.want)
		}
		if err := h.k.unmountVolumes(id); err != nil {
			t.Error(err)
		}
	}
}
