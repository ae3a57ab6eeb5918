package state

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dynamic reserves for roles, outermost first.
func dynamic(r Resource, roles ...string) Resource {
	d := r.Details()
	for _, role := range roles {
		d.Reservations = append(d.Reservations, Reservation{Role: role, Principal: "p"})
	}
	return r.With(d)
}

// onDisk makes a volume.
func onDisk(r Resource, id string) Resource {
	d := r.Details()
	d.Disk.Volume = id
	r = r.With(d)
	r.Mounting = &Mounting{Path: "data", Principal: "p"}
	return r
}

// sharedBy makes a volume one that many tasks may use.
func sharedBy(r Resource) Resource {
	d, seen := r.Details(), r.Mounting
	d.Disk.Shared = true
	r = r.With(d)
	r.Mounting = seen
	return r
}

func amountOf(name string, n int64) Resource { return Resource{Name: name, Milli: n * 1000} }

func one(t testing.TB, list ...Resource) Resources {
	t.Helper()
	rs, err := NewResources(list...)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// randomConversion is anything that could be asked to be made of resources, mostly such
// that could be.
func randomConversion(r *rand.Rand, t testing.TB, f FrameworkID, a AgentID) Command {
	if r.IntN(5) == 0 {
		return AcknowledgeOperation{Framework: f, ID: OperationID([]string{"o1", "o2"}[r.IntN(2)]), UUID: []byte{byte(r.IntN(2))}}
	}
	plain := amountOf([]string{CPUs, Disk}[r.IntN(2)], int64(1+r.IntN(2)))
	role := []string{"a", "b"}[r.IntN(2)]
	stages := []Resource{plain, dynamic(plain, role), dynamic(plain, role, role+"/x")}
	if plain.Name == Disk {
		v := onDisk(stages[1], "v")
		stages = append(stages, v, onDisk(stages[2], "v"), sharedBy(v), sharedBy(v))
	}
	c := ConvertResources{Agent: a, Take: one(t, stages[r.IntN(len(stages))]), Give: one(t, stages[r.IntN(len(stages))])}
	if r.IntN(2) == 0 {
		c.Framework, c.Operation, c.UUID = f, OperationID([]string{"", "o1", "o2"}[r.IntN(3)]), []byte{byte(r.IntN(2))}
	}
	if r.IntN(8) == 0 {
		c.Give = one(t, amountOf(plain.Name, 3)) // of nothing
	}
	if r.IntN(6) == 0 {
		n := []string{"r1", "r2", "r3", "r4", "r5"}[r.IntN(5)]
		return LaunchTask{Container: ContainerID(n), Task: TaskID(n), Framework: f, Agent: a, Role: role, Resources: c.Take}
	}
	if r.IntN(12) == 0 {
		return RestoreResources{Agent: a, Made: c.Give}
	}
	return c
}

// checkMade: no volume is there twice, and nothing is in use that the agent does not have,
// unless it came back with less.
func (s *State) checkMade(t testing.TB) {
	for a := range s.Agents() {
		seen := map[string]bool{}
		for _, v := range a.Total.Volumes() {
			if key := v.Role + " " + v.Volume(); seen[key] {
				t.Fatalf("agent %s offers volume %s twice: %s", a.ID, key, a.Total)
			} else {
				seen[key] = true
			}
		}
		if again := one(t, a.Total...); !slices.EqualFunc(again, a.Total, func(x, y Resource) bool { return compareResource(x, y) == 0 && x.Milli == y.Milli }) {
			t.Fatalf("agent %s: %s is not canonical", a.ID, a.Total)
		}
	}
}

// Whatever is made of resources, their agent has as many as before.
func TestConversionsConserve(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	done := map[string]int{}
	for run := range uint64(800) {
		r := rand.New(rand.NewPCG(seed, run))
		c := newCluster(t)
		f := c.framework()
		came := one(t, amountOf(CPUs, 4), amountOf(Disk, 6), amountOf(Mem, 64))
		a := c.do(RegisterAgent{Node: "n1", AttachKey: "k", Total: came, Pool: "10.88.0.0/16"}).AgentID
		var running []ContainerID
		for range 60 {
			if len(running) > 0 && r.IntN(8) == 0 {
				c.do(report(a, 0, 1, TaskFinished).of(running[0]))
				running = running[1:]
			}
			if r.IntN(10) == 0 {
				for _, container := range running {
					c.do(report(a, 0, 1, TaskFinished).of(container))
				}
				running = nil
			}
			cmd := randomConversion(r, t, f, a)
			c.m.View(func(s *State) { // now and then a task on a volume that is there
				agent, _ := s.Agent(a)
				if n := ContainerID(strconv.Itoa(r.IntN(99))); r.IntN(4) == 0 && agent.Total.AnyShared() {
					volume := agent.Total[slices.IndexFunc(agent.Total, Resource.Shared)]
					if r.IntN(4) == 0 {
						without := volume.Details()
						without.Disk.Volume, without.Disk.Shared = "", false
						cmd = ConvertResources{Agent: a, Take: Resources{volume}, Give: Resources{volume.With(without)}}
						return
					}
					cmd = LaunchTask{Container: n, Task: TaskID(n), Framework: f, Agent: a, Role: "a", Resources: Resources{volume}}
				}
			})
			if c.apply(cmd)[0].Err == nil {
				switch cmd := cmd.(type) {
				case ConvertResources:
					done[strings.NewReplacer("1", "n", "2", "n").Replace(cmd.Take.String()+" to "+cmd.Give.String())]++
				case LaunchTask:
					done["launch"]++
					running = append(running, cmd.Container)
					c.m.View(func(s *State) {
						agent, _ := s.Agent(a)
						if agent.UsesOf(cmd.Resources[0]) > 1 {
							done["shared"]++
						}
					})
				case AcknowledgeOperation:
					done["acknowledge"]++
				}
			}
			c.m.View(func(s *State) {
				s.check(t)
				s.checkMade(t)
				agent, _ := s.Agent(a)
				if is, err := agent.Total.Bases(); err != nil || is.String() != came.String() {
					t.Fatalf("run %d: after %T %+v the agent has %s, it came with %s", run, cmd, cmd, is, came)
				}
			})
		}
	}
	if done["shared"] < 100 {
		t.Error("this proves nothing of what is shared")
	}
	t.Logf("launched %d times, %d times beside another user of the same volume", done["launch"], done["shared"])
	for _, want := range []string{"cpus:n to cpus(a, p):n", "cpus(b, p):n to cpus:n", "disk(a, p):n to disk(a, p)[v]:n", "disk(a, p; a/x, p)[v]:n to disk:n", "disk(a, p):n to disk(a, p)[v]<shared>:n", "disk(a, p)[v]<shared>:n to disk(a, p):n", "launch", "shared", "acknowledge"} {
		if done[want] == 0 {
			t.Errorf("never done: %s", want)
		}
	}
}

func (u UpdateTask) of(c ContainerID) UpdateTask {
	u.Container = c
	return u
}

func TestConversionRefused(t *testing.T) {
	c := newCluster(t)
	f := c.framework()
	a := c.do(RegisterAgent{Node: "n1", AttachKey: "k", Total: one(t, amountOf(CPUs, 4), amountOf(Disk, 100)), Pool: "10.88.0.0/16"}).AgentID
	disk := dynamic(amountOf(Disk, 40), "a")
	c.do(ConvertResources{Agent: a, Take: one(t, amountOf(Disk, 80)), Give: one(t, disk, disk)})
	c.do(ConvertResources{Agent: a, Take: one(t, disk), Give: one(t, onDisk(disk, "v")), Framework: f, Operation: "o", UUID: []byte("u")})
	picture := func() (out string) {
		c.m.View(func(s *State) {
			agent, _ := s.Agent(a)
			for _, o := range s.AllOperations() {
				out += string(o.ID) + " "
			}
			out += agent.Total.String()
		})
		return out
	}
	before := picture()
	for _, test := range []struct {
		name string
		cmd  Command
		want error
	}{
		{"another agent", ConvertResources{Agent: "x", Take: one(t, disk), Give: one(t, disk)}, ErrAgentUnknown},
		{"nothing", ConvertResources{Agent: a}, ErrCommandInvalid},
		{"more out of less", ConvertResources{Agent: a, Take: one(t, disk), Give: one(t, amountOf(Disk, 41))}, ErrCommandInvalid},
		{"less out of more", ConvertResources{Agent: a, Take: one(t, disk), Give: one(t, amountOf(Disk, 39))}, ErrCommandInvalid},
		{"cpus out of disk", ConvertResources{Agent: a, Take: one(t, disk), Give: one(t, amountOf(CPUs, 40))}, ErrCommandInvalid},
		{"more than there is", ConvertResources{Agent: a, Take: one(t, amountOf(CPUs, 5)), Give: one(t, dynamic(amountOf(CPUs, 5), "a"))}, ErrNoRoom},
		{"a part of a volume", ConvertResources{Agent: a, Take: one(t, onDisk(dynamic(amountOf(Disk, 20), "a"), "v")), Give: one(t, dynamic(amountOf(Disk, 20), "a"))}, ErrNoRoom},
		{"a volume's id again", ConvertResources{Agent: a, Take: one(t, disk), Give: one(t, onDisk(disk, "v"))}, ErrVolumeDuplicate},
		{"two volumes of one id, reserved by two", ConvertResources{
			Agent: a, Take: one(t, amountOf(Disk, 20)),
			Give: one(t, onDisk(dynamic(amountOf(Disk, 10), "b"), "x"), onDisk(amountOf(Disk, 10).With(Details{Reservations: []Reservation{{Role: "b", Principal: "q"}}}), "x")),
		}, ErrVolumeDuplicate},
		{"an operation's id again", ConvertResources{Agent: a, Take: one(t, disk), Give: one(t, amountOf(Disk, 40)), Framework: f, Operation: "o"}, ErrOperationDuplicate},
		{"a framework that is not there", ConvertResources{Agent: a, Take: one(t, disk), Give: one(t, amountOf(Disk, 40)), Framework: "x", Operation: "o"}, ErrFrameworkUnknown},
		{"a task on a part of a volume", LaunchTask{Container: "c", Task: "t", Framework: f, Agent: a, Role: "a", Resources: one(t, onDisk(dynamic(amountOf(Disk, 20), "a"), "v"))}, ErrNoRoom},
		{"restored where nothing is adopted", RestoreResources{Agent: a, Made: one(t, disk)}, ErrCommandInvalid},
		{"acknowledged with another uuid", AcknowledgeOperation{Framework: f, ID: "o", UUID: []byte("x")}, ErrNotNewest},
		{"acknowledged and unknown", AcknowledgeOperation{Framework: f, ID: "x", UUID: []byte("u")}, ErrOperationUnknown},
	} {
		if err := c.apply(test.cmd)[0].Err; !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if after := picture(); after != before {
			t.Errorf("%s: %s, before %s", test.name, after, before)
		}
	}
}

// A framework's operations go with it.
func TestOperationsEndWithTheirFramework(t *testing.T) {
	c := newCluster(t)
	f := c.framework()
	a := c.do(RegisterAgent{Node: "n1", AttachKey: "k", Total: one(t, amountOf(CPUs, 4)), Pool: "10.88.0.0/16"}).AgentID
	c.do(ConvertResources{Agent: a, Take: one(t, amountOf(CPUs, 1)), Give: one(t, dynamic(amountOf(CPUs, 1), "a")), Framework: f, Operation: "o", UUID: []byte("u")})
	c.do(RemoveFramework{f})
	c.m.View(func(s *State) {
		if left := s.AllOperations(); len(left) != 0 {
			t.Errorf("%d operations of nobody", len(left))
		}
		if agent, _ := s.Agent(a); agent.Total.String() != "cpus:3;cpus(a, p):1" {
			t.Errorf("what it reserved went, too: %s", agent.Total)
		}
	})
}

// What is read back as details is what was written, and nothing else is taken for it.
func TestDetails(t *testing.T) {
	value := "v"
	r := amountOf(Disk, 5).With(Details{
		Reservations: []Reservation{{Static: true, Role: "a"}, {Role: "a/b", Principal: "p", Labels: []Label{{Key: "z"}, {Key: "k", Value: &value}}}},
		Disk:         DiskInfo{Volume: "id", Kind: PathDisk, Root: "/disks/1"},
	})
	same := amountOf(Disk, 5).With(Details{
		Reservations: []Reservation{{Static: true, Role: "a"}, {Role: "a/b", Principal: "p", Labels: []Label{{Key: "k", Value: &value}, {Key: "z"}}}},
		Disk:         DiskInfo{Volume: "id", Kind: PathDisk, Root: "/disks/1"},
	})
	if compareResource(r, same) != 0 {
		t.Error("the order of labels tells resources apart")
	}
	if got := r.words(); r.Role != "a/b" || got != "(a; a/b, p)[/disks/1 id]" {
		t.Errorf("role %s, %s", r.Role, got)
	}
	if base := r.Base(); base.Role != "a" || base.Details().Disk != (DiskInfo{Kind: PathDisk, Root: "/disks/1"}) {
		t.Errorf("came as %+v", base)
	}
	if plain := amountOf(CPUs, 1).With(Details{Reservations: []Reservation{{Static: true, Role: "a"}}}); plain.Detail != "" {
		t.Error("a static reservation needs details")
	}
	for _, bad := range []Resource{
		{Name: CPUs, Detail: "\x00\x00\x00\x00"},
		{Name: CPUs, Role: "b", Detail: dynamic(amountOf(CPUs, 1), "a").Detail, Milli: 1},
		{Name: Disk, Role: "a/b", Detail: r.Detail, Milli: 1}, // without its mounting
		{Name: CPUs, Role: "a", Milli: 1, Mounting: &Mounting{}},
	} {
		if bad.checkDetail() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
