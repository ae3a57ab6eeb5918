package state

import (
	"bytes"
	"errors"
	"maps"
	"testing"
)

// check holds the sums that the state keeps against the tasks themselves: what is shared is
// held once on each agent, and its users are counted.
func (s *State) check(t testing.TB) {
	type place struct {
		framework FrameworkID
		role      string
		agent     AgentID
	}
	held := map[place]Resources{} // per agent alone, and per framework, role and agent
	users := map[place]map[sharing]int{}
	for task := range s.tasks.all() {
		if task.Released {
			continue
		}
		for _, r := range task.Resources {
			for _, at := range []place{{agent: task.AgentID}, {task.FrameworkID, task.Role, task.AgentID}} {
				if r.Shared() {
					if users[at] == nil {
						users[at] = map[sharing]int{}
					}
					key := sharingOf(r, at.role, at.agent)
					if at.framework == "" {
						key = sharingOf(r, "", "")
					}
					if users[at][key]++; users[at][key] > 1 {
						continue
					}
				}
				sum, err := held[at].Plus(Resources{r})
				if err != nil {
					t.Fatal(err)
				}
				held[at] = sum
			}
		}
	}
	for a := range s.Agents() {
		if a.used.String() != held[place{agent: a.ID}].String() {
			t.Fatalf("agent %s: used %s, its tasks hold %s", a.ID, a.used, held[place{agent: a.ID}])
		}
		if !maps.Equal(a.uses, users[place{agent: a.ID}]) {
			t.Fatalf("agent %s: counts %v, its tasks %v", a.ID, a.uses, users[place{agent: a.ID}])
		}
	}
	for f := range s.Frameworks() {
		sums, counts := map[string]Resources{}, map[sharing]int{}
		for at, rs := range held {
			if at.framework == f.ID {
				sums[at.role], _ = sums[at.role].Plus(rs)
				maps.Copy(counts, users[at])
			}
		}
		for role := range sums {
			if f.allocated[role].String() != sums[role].String() {
				t.Fatalf("framework %s, role %s: allocated %s, its tasks hold %s", f.ID, role, f.allocated[role], sums[role])
			}
		}
		if len(f.AllocatedRoles()) != len(sums) || !maps.Equal(f.uses, counts) {
			t.Fatalf("framework %s: allocated %v and counts %v, its tasks %v, %v", f.ID, f.allocated, f.uses, sums, counts)
		}
	}
}

// A shared volume is used by many tasks, of several roles and frameworks, is there once and
// free for the next one, and cannot be ended before the last of them.
func TestSharedVolumes(t *testing.T) {
	c := newCluster(t)
	f, g := c.framework(), c.framework()
	a := c.do(RegisterAgent{Node: "n1", AttachKey: "k", Total: one(t, amountOf(CPUs, 4), amountOf(Disk, 100)), Pool: "10.88.0.0/16"}).AgentID
	b := c.do(RegisterAgent{Node: "n2", AttachKey: "k", Total: one(t, amountOf(CPUs, 4), amountOf(Disk, 100)), Pool: "10.88.0.0/16"}).AgentID
	small, large := dynamic(amountOf(Disk, 40), "a"), dynamic(amountOf(Disk, 50), "a")
	volume, other := sharedBy(onDisk(small, "v")), sharedBy(onDisk(large, "v"))
	c.do(ConvertResources{Agent: a, Take: one(t, amountOf(Disk, 40)), Give: one(t, small)})
	c.do(ConvertResources{Agent: a, Take: one(t, small), Give: one(t, volume)})
	c.do(ConvertResources{Agent: b, Take: one(t, amountOf(Disk, 50)), Give: one(t, large)})
	c.do(ConvertResources{Agent: b, Take: one(t, large), Give: one(t, other)})
	task := func(f FrameworkID, on AgentID, n int, role string, rs ...Resource) LaunchTask {
		l := launch(f, on, n, one(t, append(rs, amountOf(CPUs, 1))...))
		l.Role = role
		return l
	}
	c.do(task(f, a, 1, "a", volume))
	c.do(task(f, a, 2, "a", volume))
	c.do(task(g, a, 3, "a/x", volume))
	c.do(task(f, b, 4, "a", other)) // of the same name and another size, elsewhere
	c.refused(task(f, a, 5, "a", other), ErrNoRoom)
	destroy := ConvertResources{Agent: a, Take: one(t, volume), Give: one(t, small)}
	picture := func(want string) {
		t.Helper()
		c.m.View(func(s *State) {
			s.check(t)
			agent, _ := s.Agent(a)
			fw, _ := s.Framework(f)
			if got := agent.Used().String() + " | " + agent.Free().String() + " | " + fw.Allocated("a").String(); got != want {
				t.Errorf("used | free | allocated: %s, want %s", got, want)
			}
		})
	}
	picture("cpus:3;disk(a, p)[v]<shared>:40 | cpus:1;disk:60;disk(a, p)[v]<shared>:40 | cpus:3;disk(a, p)[v]<shared>:90")
	for n := 1; n <= 3; n++ {
		c.refused(destroy, ErrNoRoom)
		c.do(report([]AgentID{a, a, a}[n-1], n, 1, TaskFinished))
	}
	picture(" | cpus:4;disk:60;disk(a, p)[v]<shared>:40 | cpus:1;disk(a, p)[v]<shared>:50")
	snap, _ := c.m.Snapshot()
	var buf bytes.Buffer
	if _, err := snap.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	again := NewMachine()
	if err := again.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	if again.Hash() != c.m.Hash() {
		t.Error("another state after its own snapshot")
	}
	c.do(destroy)
	c.refused(task(g, a, 6, "a", volume), ErrNoRoom)
}

// Tasks of one executor may all use a shared volume, and nobody else's size of it counts.
func TestTasksOfAnExecutorShareAVolume(t *testing.T) {
	c := newCluster(t)
	f := c.framework()
	a := c.do(RegisterAgent{Node: "n1", AttachKey: "k", Total: one(t, amountOf(CPUs, 4), amountOf(Mem, 64), amountOf(Disk, 100)), Pool: "10.88.0.0/16"}).AgentID
	volume := sharedBy(onDisk(dynamic(amountOf(Disk, 40), "a"), "v"))
	c.do(ConvertResources{Agent: a, Take: one(t, amountOf(Disk, 40)), Give: one(t, volume)})
	group := executed(t, f, a, "e", 1, 2, 3)
	for i := range group.Tasks {
		group.Tasks[i].Resources = one(t, volume, amountOf(CPUs, 1))
	}
	c.do(group)
	if got, want := c.used(a), "cpus:3;disk(a, p)[v]<shared>:40;mem:32"; got != want {
		t.Errorf("used %s, want %s", got, want)
	}
	c.refused(ConvertResources{Agent: a, Take: one(t, volume), Give: one(t, amountOf(Disk, 40))}, ErrNoRoom)
	c.m.View(func(s *State) { s.check(t) })
}

// A volume can only be shared as a whole, and what may be taken back is nobody's for good.
func TestMarksAreRefusedWhereTheyMeanNothing(t *testing.T) {
	for _, bad := range []Details{
		{Disk: DiskInfo{Shared: true}},
		{Reservations: []Reservation{{Role: "a"}}, Disk: DiskInfo{Shared: true}},
		{Reservations: []Reservation{{Role: "a"}}, Revocable: true},
		{Disk: DiskInfo{Kind: MountDisk, Root: "/d"}, Revocable: true},
	} {
		if err := bad.Check(Disk); !errors.Is(err, ErrResourceInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, good := range []Details{
		{Reservations: []Reservation{{Role: "a"}}, Disk: DiskInfo{Volume: "v", Shared: true}},
		{Revocable: true},
	} {
		r := amountOf(Disk, 1).With(good)
		if again := r.Details(); r.Shared() != good.Disk.Shared || r.Revocable() != good.Revocable || again.Revocable != good.Revocable || again.Disk != good.Disk || good.Check(Disk) != nil {
			t.Errorf("%+v became %+v", good, again)
		}
	}
}
