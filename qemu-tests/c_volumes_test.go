//go:build vm

package qemutests

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

const keepers = "keepers" // the role whose volumes these are

// keeping is a framework that knows reservations.
func (w *world) keeping(t *testing.T) client.Config {
	return client.Config{
		Masters: w.APIs(), HTTP: w.Client(),
		Framework: &mesosv1.FrameworkInfo{
			User: proto.String("root"), Name: proto.String(t.Name() + " resources"), Roles: []string{keepers}, FailoverTimeout: proto.Float64(60),
			Capabilities: []*mesosv1.FrameworkInfo_Capability{
				{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}, {Type: mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT.Enum()},
			},
		},
	}
}

// keptDisk is disk that is reserved for the keepers; with an id it is a volume.
func keptDisk(mb float64, id string) *mesosv1.Resource {
	r := &mesosv1.Resource{
		Name: proto.String("disk"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &mb},
		Reservations: []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String(keepers)}},
	}
	if id != "" {
		r.Disk = &mesosv1.Resource_DiskInfo{
			Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: &id},
			Volume:      &mesosv1.Volume{ContainerPath: proto.String("data"), Mode: mesosv1.Volume_RW.Enum()},
		}
	}
	return r
}

// A persistent volume is the next container's as it was the last one's, whatever ids each
// has on the host: files belong to whom the tasks know. It can be seen at another place and
// only to be read, and destroyed it is gone.
func TestVolumesOutliveTheirTasks(t *testing.T) {
	w := three(t)
	stopwatch(t)
	ctx := within(t, 4*toRun)
	convert := func(fits func(*mesosv1.Offer) bool, ops ...*mesosv1.Offer_Operation) {
		t.Helper()
		if err := client.Convert(ctx, w.keeping(t), fits, ops...); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(o *mesosv1.Offer) bool {
		for _, r := range o.GetResources() {
			if r.GetDisk().GetPersistence().GetId() == "kept" {
				return true
			}
		}
		return false
	}
	reserve := &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{Resources: []*mesosv1.Resource{keptDisk(16, "")}}}
	unreserve := &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_UNRESERVE.Enum(), Unreserve: &mesosv1.Offer_Operation_Unreserve{Resources: []*mesosv1.Resource{keptDisk(16, "")}}}
	create := &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_CREATE.Enum(), Create: &mesosv1.Offer_Operation_Create{Volumes: []*mesosv1.Resource{keptDisk(16, "kept")}}}
	destroy := &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_DESTROY.Enum(), Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: []*mesosv1.Resource{keptDisk(16, "kept")}}}
	convert(func(*mesosv1.Offer) bool { return true }, reserve, create)

	f := w.frameworkAs(t, keepers)
	task := func(id, user string, volume client.Volume, verb ...string) client.Launched {
		t.Helper()
		one := f.task(t, id, verb...)
		volume.ID = "kept"
		one.Volumes = []client.Volume{volume}
		if user != "" {
			one.Command.User = &user
		}
		return f.runToEnd(t, one)[0]
	}
	says := func(l client.Launched, want mesosv1.TaskState, stream, text string) {
		t.Helper()
		if got := f.output(t, l, stream); l.Status.GetState() != want || !strings.Contains(got, text) {
			t.Fatalf("%s ended as %s (%s) and said %q, want %s and %q", l.Task.ID, l.Status.GetState(), l.Status.GetMessage(), got, want, text)
		}
	}
	const finished, failed = mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED
	says(task("writes", "", client.Volume{}, "keep", "/mnt/mesos/sandbox/data/file", "remembered"), finished, "stdout", "0:0 0:0 seen by 0")
	says(task("reads", "", client.Volume{Path: "/elsewhere", ReadOnly: true}, "show", "/elsewhere/file"), finished, "stdout", "remembered")
	says(task("spoils", "", client.Volume{Path: "/elsewhere", ReadOnly: true}, "keep", "/elsewhere/file", "spoilt"), failed, "stderr", "read-only file system")
	// Another user has its top directory from then on, and not what lies in it.
	says(task("another", "1234", client.Volume{Path: "deep/data"}, "keep", "/mnt/mesos/sandbox/deep/data/mine", "x"), finished, "stdout", "1234:1234 1234:1234 seen by 1234")
	says(task("pries", "1234", client.Volume{}, "show", "/mnt/mesos/sandbox/data/file"), failed, "stderr", "permission denied")
	says(task("reads-again", "", client.Volume{}, "show", "/mnt/mesos/sandbox/data/file"), finished, "stdout", "remembered")

	convert(holds, destroy, create)
	says(task("finds-nothing", "", client.Volume{}, "show", "/mnt/mesos/sandbox/data/file"), failed, "stderr", "no such file")
	convert(holds, destroy, unreserve)
}
