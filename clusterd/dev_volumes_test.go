package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// keeping is a framework whose role keeps resources and volumes.
func (p *processes) keeping() client.Config {
	cfg := client.Config{Framework: &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String(p.t.Name()), Roles: []string{"keeps"}, FailoverTimeout: proto.Float64(600),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{
			{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}, {Type: mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT.Enum()},
		},
	}}
	for i := range p.ports {
		cfg.Masters = append(cfg.Masters, "http://"+p.api(i))
	}
	return cfg
}

// kept is disk that is reserved for the role.
func kept(mb float64) *mesosv1.Resource {
	return &mesosv1.Resource{
		Name: proto.String("disk"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &mb},
		Reservations: []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String("keeps")}},
	}
}

func volumeOf(r *mesosv1.Resource, id, path string) *mesosv1.Resource {
	r.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: &id},
		Volume:      &mesosv1.Volume{ContainerPath: &path, Mode: mesosv1.Volume_RW.Enum()},
	}
	return r
}

func reserveOp(rs ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{Resources: rs}}
}

func createOp(rs ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_CREATE.Enum(), Create: &mesosv1.Offer_Operation_Create{Volumes: rs}}
}

func destroyOp(rs ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_DESTROY.Enum(), Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: rs}}
}

// holds says whether an offer has a volume.
func holds(id string) func(*mesosv1.Offer) bool {
	return func(o *mesosv1.Offer) bool {
		for _, r := range o.GetResources() {
			if r.GetDisk().GetPersistence().GetId() == id {
				return true
			}
		}
		return false
	}
}

// A volume outlives its tasks, its frameworks, the member's program and the memory of the
// masters; destroyed, it is gone with what it held, and one of the same name is empty.
func TestVolumesOutliveEverythingButTheirEnd(t *testing.T) {
	p := newTaskProcesses(t, 1)
	p.start(0)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	convert := func(fits func(*mesosv1.Offer) bool, ops ...*mesosv1.Offer_Operation) {
		t.Helper()
		if err := client.Convert(ctx, p.keeping(), fits, ops...); err != nil {
			t.Fatal(err)
		}
	}
	anyOffer := func(*mesosv1.Offer) bool { return true }
	run := func(id, command string) client.Launched {
		t.Helper()
		c, err := client.New(p.keeping())
		if err != nil {
			t.Fatal(err)
		}
		l := client.NewLauncher(c, nil)
		living, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- l.Run(living) }()
		task := shell(id, command)
		task.Volumes = []client.Volume{{ID: "v1"}}
		if err := l.Add(ctx, task); err != nil {
			t.Fatal(err)
		}
		got := p.wait(l, id, client.Ended)
		if err := c.Teardown(ctx); err != nil {
			t.Error(err)
		}
		stop()
		<-ended
		return got
	}
	finished := func(got client.Launched) {
		t.Helper()
		if got.Status.GetState() != mesosv1.TaskState_TASK_FINISHED {
			t.Fatalf("%s: %s: %s", got.Task.ID, got.Status.GetState(), got.Status.GetMessage())
		}
	}
	convert(anyOffer, reserveOp(kept(64)), createOp(volumeOf(kept(48), "v1", "data/own")))
	finished(run("writes", "echo first > data/own/file"))
	finished(run("reads", "grep first data/own/file"))

	// The program dies, and its memory with it: what the agent keeps is taken in again.
	p.kill(0)
	if err := os.RemoveAll(filepath.Join(p.dirs[0], "raft")); err != nil {
		t.Fatal(err)
	}
	p.start(0)
	finished(run("reads-again", "grep first data/own/file"))

	convert(holds("v1"), destroyOp(volumeOf(kept(48), "v1", "data/own")))
	found := func() bool {
		_, err := os.Stat(filepath.Join(p.dirs[0], "work", "volumes", "roles", "keeps", "v1"))
		return err == nil
	}
	p.eventually("the end of the volume on disk", func() bool { return !found() })
	convert(anyOffer, createOp(volumeOf(kept(64), "v1", "data/own")))
	finished(run("finds-nothing", "test ! -e data/own/file"))
	if !found() {
		t.Error("the volume is not where Mesos has it, and below that its serial")
	}
	err := client.Convert(ctx, p.keeping(), holds("v1"), createOp(volumeOf(kept(1), "v1", "data")))
	if err == nil || !strings.Contains(err.Error(), "CREATE") {
		t.Errorf("a second volume of the same name: %v", err)
	}
}

// Two tasks that need each other's files run on one shared volume at the same time; nobody
// destroys it under them.
func TestTasksShareAVolume(t *testing.T) {
	p := newTaskProcesses(t, 1)
	p.start(0)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cfg := func() client.Config {
		c := p.keeping()
		c.Framework.Capabilities = append(c.Framework.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: mesosv1.FrameworkInfo_Capability_SHARED_RESOURCES.Enum()})
		return c
	}
	volume := func() *mesosv1.Resource {
		r := volumeOf(kept(48), "v1", "data/own")
		r.Shared = &mesosv1.Resource_SharedInfo{}
		return r
	}
	anyOffer := func(*mesosv1.Offer) bool { return true }
	if err := client.Convert(ctx, p.keeping(), anyOffer, reserveOp(kept(48)), createOp(volume())); err == nil || !strings.Contains(err.Error(), "SHARED_RESOURCES") {
		t.Errorf("made by who has no capability for it: %v", err)
	}
	if err := client.Convert(ctx, cfg(), anyOffer, createOp(volume())); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg())
	if err != nil {
		t.Fatal(err)
	}
	l := client.NewLauncher(c, nil)
	living, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(living) }()
	for id, command := range map[string]string{
		"asks":    "echo here > data/own/question; until grep there data/own/answer; do sleep 0.1; done; until test -e data/own/end; do sleep 0.1; done",
		"answers": "until grep here data/own/question; do sleep 0.1; done; echo there > data/own/answer; until test -e data/own/end; do sleep 0.1; done",
	} {
		task := shell(id, command)
		task.Volumes = []client.Volume{{ID: "v1"}}
		if err := l.Add(ctx, task); err != nil {
			t.Fatal(err)
		}
	}
	p.wait(l, "asks", client.Running)
	p.wait(l, "answers", client.Running)
	if err := client.Convert(ctx, cfg(), holds("v1"), destroyOp(volume())); err == nil || !strings.Contains(err.Error(), "is used by 2 tasks") {
		t.Errorf("destroyed under two tasks: %v", err)
	}
	last := shell("ends", "touch data/own/end")
	last.Volumes = []client.Volume{{ID: "v1"}}
	if err := l.Add(ctx, last); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"asks", "answers", "ends"} {
		if got := p.wait(l, id, client.Ended).Status; got.GetState() != mesosv1.TaskState_TASK_FINISHED {
			t.Errorf("%s: %s: %s", id, got.GetState(), got.GetMessage())
		}
	}
	if err := c.Teardown(ctx); err != nil {
		t.Error(err)
	}
	stop()
	<-ended
	if err := client.Convert(ctx, cfg(), holds("v1"), destroyOp(volume())); err != nil {
		t.Error(err)
	}
}
