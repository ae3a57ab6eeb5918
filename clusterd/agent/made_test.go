package agent

import (
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/task"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

func volumeResource(id string, mb float64) *mesosv1.Resource {
	return &mesosv1.Resource{
		Name: proto.String("disk"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &mb},
		Reservations: []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String("r")}},
		Disk:         &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: &id}, Volume: &mesosv1.Volume{ContainerPath: proto.String("data"), Mode: mesosv1.Volume_RW.Enum()}},
	}
}

func toldOf(t *testing.T, id string, serial uint64) *agentwire.MadeResource {
	t.Helper()
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(volumeResource(id, 10))
	if err != nil {
		t.Fatal(err)
	}
	return &agentwire.MadeResource{Resource: raw, Serial: serial}
}

// reopened is what another program finds in an agent's journal.
func reopened(t *testing.T, a *Agent) *Agent {
	t.Helper()
	if err := a.journal.Close(); err != nil {
		t.Fatal(err)
	}
	b := New(a.cfg)
	if err := b.recover(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.journal.Close() })
	return b
}

func madeAgent(t *testing.T) (*Agent, *keeperLink) {
	t.Helper()
	a := New(Config{Info: &mesosv1.AgentInfo{}, Keeper: &keeper.Configure{}, JournalPath: filepath.Join(t.TempDir(), "journal"), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := a.recover(); err != nil {
		t.Fatal(err)
	}
	return a, &keeperLink{conn: nobody{}, out: make(chan *keeper.Request, 100), asked: map[uint64]*keeper.Request{}}
}

// removals are the volumes that the keeper was asked to remove, by serial.
func removals(l *keeperLink) (out []uint64) {
	for {
		select {
		case r := <-l.out:
			for _, v := range r.GetRemoveVolumes().GetVolumes() {
				out = append(out, v.GetSerial())
			}
		default:
			return out
		}
	}
}

// What was told of and is not any more is removed, also after the program died before it
// was; a volume of the same name is another one. A new identity leaves what is there alone,
// and forgets no removal.
func TestDestroyedVolumesAreRemovedUntilTheyAreGone(t *testing.T) {
	a, link := madeAgent(t)
	tell := func(list ...*agentwire.MadeResource) {
		t.Helper()
		if err := a.onMade(list); err != nil {
			t.Fatal(err)
		}
	}
	tell(toldOf(t, "v", 1), toldOf(t, "w", 2))
	tell(toldOf(t, "v", 3), toldOf(t, "w", 2)) // destroyed and made again, unseen
	size := a.journal.Size()
	if tell(toldOf(t, "v", 3), toldOf(t, "w", 2)); a.journal.Size() != size {
		t.Error("the same list is written down again")
	}
	a = reopened(t, a)
	if err := a.onList(link, nil); err != nil {
		t.Fatal(err)
	}
	if got := removals(link); len(got) != 1 || got[0] != 1 {
		t.Fatalf("asked to remove %v", got)
	}
	tell(toldOf(t, "v", 3)) // while that is under way
	answer := func(why *keeper.Error) {
		t.Helper()
		if err := a.onKeeper(keeperEvent{link: link, response: &keeper.Response{Id: link.lastID, Error: why}}); err != nil {
			t.Fatal(err)
		}
	}
	answer(&keeper.Error{Message: "no"})
	a.removeVolumes()
	if got := removals(link); len(got) != 2 || got[0] != 1 || got[1] != 2 {
		t.Fatalf("asked again to remove %v", got)
	}
	if err := a.newIdentity(); err != nil {
		t.Fatal(err)
	}
	a = reopened(t, a)
	if err := a.onList(link, nil); err != nil {
		t.Fatal(err)
	}
	if got := removals(link); len(got) != 2 {
		t.Fatalf("under a new identity asked to remove %v", got)
	}
	answer(nil)
	if err := a.compact(); err != nil {
		t.Fatal(err)
	}
	if a = reopened(t, a); len(a.made.removed) != 0 || len(a.made.resources) != 0 {
		t.Errorf("left to remove: %v, told of: %v", a.made.removed, a.made.resources)
	}
}

// The journal written anew holds what was made.
func TestCompactionKeepsWhatWasMade(t *testing.T) {
	a, _ := madeAgent(t)
	if err := a.onMade([]*agentwire.MadeResource{toldOf(t, "v", 1), toldOf(t, "w", 2)}); err != nil {
		t.Fatal(err)
	}
	if err := a.onMade([]*agentwire.MadeResource{toldOf(t, "v", 1)}); err != nil {
		t.Fatal(err)
	}
	if err := a.compact(); err != nil {
		t.Fatal(err)
	}
	if a = reopened(t, a); len(a.made.resources) != 1 || a.made.resources[0].GetSerial() != 1 || len(a.made.removed) != 1 || a.made.removed[0].GetSerial() != 2 {
		t.Errorf("told of %v, to be removed %v", a.made.resources, a.made.removed)
	}
}

// A task begins with the volumes that the leader told of, exactly, and while no other
// container uses them.
func TestVolumesOfATask(t *testing.T) {
	a, _ := madeAgent(t)
	using := func(container string, resources ...*mesosv1.Resource) *task.Task {
		return &task.Task{Facts: task.Facts{ContainerID: container, Info: &mesosv1.TaskInfo{Resources: resources}}, Latest: mesosv1.TaskState_TASK_STAGING}
	}
	if _, ok := a.volumesOf(using("c", volumeResource("v", 10))); ok {
		t.Error("a volume that nobody told of")
	}
	if err := a.onMade([]*agentwire.MadeResource{toldOf(t, "v", 7)}); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*mesosv1.Resource{"a part": volumeResource("v", 9), "nothing of it": volumeResource("v", 0), "another": volumeResource("w", 10)} {
		if _, ok := a.volumesOf(using("c", r)); ok {
			t.Errorf("%s was let through", name)
		}
	}
	seen := volumeResource("v", 10)
	seen.Disk.Volume = &mesosv1.Volume{ContainerPath: proto.String("/elsewhere"), Mode: mesosv1.Volume_RO.Enum()}
	got, ok := a.volumesOf(using("c", seen))
	if !ok || len(got) != 1 || got[0].GetSerial() != 7 || got[0].GetContainerPath() != "/elsewhere" || !got[0].GetReadOnly() {
		t.Errorf("%v %v", got, ok)
	}
	old := using("old", volumeResource("v", 10))
	old.Known, old.Latest = true, mesosv1.TaskState_TASK_RUNNING
	a.put(old)
	if _, ok := a.volumesOf(using("c", seen)); ok {
		t.Error("two containers on one volume")
	}
	old.Latest = mesosv1.TaskState_TASK_KILLED
	if _, ok := a.volumesOf(using("c", seen)); !ok {
		t.Error("its last user has ended, and it waits")
	}
	shared := volumeResource("v", 10)
	shared.Shared = &mesosv1.Resource_SharedInfo{}
	old.Latest, old.Info.Resources = mesosv1.TaskState_TASK_RUNNING, []*mesosv1.Resource{shared}
	if got, ok := a.volumesOf(using("c", shared)); !ok || len(got) != 1 || got[0].GetSerial() != 7 {
		t.Errorf("a shared volume beside another user: %v %v", got, ok)
	}
	if got, ok := a.volumesOf(using("plain")); !ok || len(got) != 0 {
		t.Errorf("a task without volumes: %v %v", got, ok)
	}
}
