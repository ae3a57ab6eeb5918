package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAfterAFatalEntryNothingIsApplied(t *testing.T) {
	c := newCluster(t)
	before := c.m.Hash()
	c.m.Apply(2, 1, []byte("damaged"))
	good, _ := EncodeEntry(1, []Command{SubscribeFramework{Principal: "p"}}, 1<<20)
	if out := c.m.Apply(3, 1, good).(Applied); !errors.Is(out.Err, ErrFatal) {
		t.Errorf("applied: %v", out.Err)
	}
	if _, err := c.m.Snapshot(); !errors.Is(err, ErrFatal) {
		t.Errorf("snapshot: %v", err)
	}
	if c.m.Hash() != before {
		t.Error("the state changed")
	}
}

// What the state keeps must not share the entry's memory: the log uses its buffers again,
// and sixteen bytes of a uuid would hold a quarter of a megabyte.
func TestStateDoesNotShareTheEntry(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	for _, cmd := range []Command{launch(f, a, 1, bag(t, 1, 1)), report(a, 1, 1, TaskRunning)} {
		c.index++
		entry, _ := EncodeEntry(c.now, []Command{cmd}, 1<<20)
		c.m.Apply(c.index, 1, entry)
		before := c.m.Hash()
		for i := range entry {
			entry[i] = 0xee
		}
		if c.m.Hash() != before {
			t.Errorf("%T shares its entry", cmd)
		}
	}
}

// goldenLog is one of each command, as a log holds them.
func goldenLog(t testing.TB) []Command {
	f, a := FrameworkID(gen+"-0000"), AgentID(gen+"-S0")
	return []Command{
		BeginGeneration{Generation{Height: 3, ID: gen}},
		SubscribeFramework{Info: []byte("info"), Name: "n", User: "u", Principal: "p", Hostname: "h", Roles: []string{"a", "b"}, Capabilities: CapMultiRole, Checkpoint: true, FailoverTimeout: 5e9},
		RegisterAgent{Node: "n1", AttachKey: "k", BootID: "b", Incarnation: "i", Hostname: "h1", Port: 5051, Address: "10.0.0.1", Info: []byte("agent"), Total: bag(t, 4, 1024, Range{31000, 31010}), Pool: "10.88.0.0/16"},
		launch(f, a, 1, bag(t, 1, 128, Range{31000, 31000})),
		launch(f, a, 2, bag(t, 1, 128)),
		report(a, 1, 1, TaskRunning),
		AcknowledgeUpdate{Container: "c1", UUID: bytes.Repeat([]byte{1}, 16)},
		KillTask{Container: "c1", Grace: 3e9},
		report(a, 1, 2, TaskKilled),
		AcknowledgeUpdate{Container: "c1", UUID: bytes.Repeat([]byte{2}, 16)},
		ContainersForgotten{Agent: a, Containers: []ContainerID{"c1"}},
		MarkUnreachable{a},
		RegisterAgent{ID: a, Node: "n1", AttachKey: "k", Total: bag(t, 4, 1024), Pool: "10.88.0.0/16"},
		DisconnectFramework{ID: f, Remaining: 5e9},
		RemoveFramework{ID: f},
		NameUser{Name: "web"},
		// What came later stands behind: the lines before must stay as they are.
		RaiseHeight{Height: 6},
		SpreadSubnets{Quarter: 2},
		AdoptAgent{RegisterAgent: RegisterAgent{ID: "lost-S7", Node: "n2", AttachKey: "k2", BootID: "b", Incarnation: "i", Hostname: "h2", Port: 5051, Address: "10.0.0.2", Info: []byte("agent"), Total: bag(t, 4, 1024), Pool: "10.88.0.0/16"}, Subnet: "10.88.9.0/24"},
		AdoptFramework{SubscribeFramework: SubscribeFramework{ID: "lost-0001", Info: []byte("info"), Name: "n", User: "u", Principal: "p", Roles: []string{"a"}, FailoverTimeout: 5e9}, Remaining: 6e11},
		AdoptTask{LaunchTask: LaunchTask{Container: "c9", Task: "t9", Framework: "lost-0001", Agent: "lost-S7", Role: "a", Name: "nine", Info: []byte("task"), Resources: bag(t, 1, 128)}, State: TaskRunning, KillRequested: true, KillGrace: 2e9},
		EndAdoption{Agent: "lost-S7"},
		BeginGeneration{Generation{Height: 7, ID: "ffffffff-0000-4000-8000-000000000000"}},
		AdmitHardware{Name: "m1", Hardware: "3f0a"},
		UpdateFramework{SubscribeFramework{ID: "lost-0001", Info: []byte("newer"), Name: "m", User: "u", Principal: "p", Hostname: "h", Roles: []string{"a", "b"}, Capabilities: CapMultiRole, FailoverTimeout: 7e9}},
		UpdateWeights{[]Weight{{"a", 2.5}, {"a/b", 0.25}}},
		UpdateQuota{[]RoleQuota{{"a", Quota{Guarantees: map[string]int64{CPUs: 1500, Mem: 64_000}, Limits: map[string]int64{CPUs: 4000}}}, {"b/c", Quota{Limits: map[string]int64{Disk: 0}}}, {Role: "gone"}}},
		ActivateAgent{ID: "lost-S7"},
		MarkAgentGone{ID: "lost-S7"},
		ConvertResources{
			Agent: a, Take: one(t, amountOf(CPUs, 1)), Give: one(t, dynamic(amountOf(CPUs, 1), "a", "a/b")),
			Framework: "lost-0001", Operation: "o1", UUID: bytes.Repeat([]byte{9}, 16), Info: []byte("operation"),
		},
		AdoptAgent{RegisterAgent: RegisterAgent{ID: "old-S3", Node: "n3", AttachKey: "k3", Address: "10.0.0.3", Info: []byte("agent"), Total: one(t, amountOf(Disk, 500)), Pool: "10.88.0.0/16"}},
		RestoreResources{Agent: "old-S3", Made: one(t, dynamic(amountOf(Disk, 100), "a"), onDisk(dynamic(amountOf(Disk, 50), "a"), "v1"))},
		AcknowledgeOperation{Framework: "lost-0001", ID: "o1", UUID: bytes.Repeat([]byte{9}, 16)},
		DrainAgent{ID: a, Grace: 5e9, Gone: true},
		UpdateSchedule{[]Window{{Machines: []MachineID{{Hostname: "h1", IP: "10.0.0.1"}, {IP: "10.0.0.9"}}, StartNS: 100e9, Duration: -1}, {Machines: []MachineID{{Hostname: "h7"}}, StartNS: 200e9, Duration: 60e9}}},
		SubscribeFramework{Info: []byte("info"), Roles: []string{"a"}},
		RegisterAgent{Node: "n4", AttachKey: "k", Hostname: "h7", Address: "10.0.0.4", Total: bag(t, 1, 1), Pool: "10.88.0.0/16"},
		AnswerInverseOffer{Agent: "ffffffff-0000-4000-8000-000000000000-S0", Framework: "ffffffff-0000-4000-8000-000000000000-0000", Accept: true},
		StartMaintenance{[]MachineID{{Hostname: "h7"}}},
		StopMaintenance{[]MachineID{{Hostname: "h7"}}},
		RegisterAgent{Node: "n5", AttachKey: "k", Hostname: "h5", Address: "10.0.0.5", Total: bag(t, 1, 1), Pool: "10.88.0.0/16"},
		DrainAgent{ID: "ffffffff-0000-4000-8000-000000000000-S1", Grace: -1, Gone: true},
		EndDrained{ID: "ffffffff-0000-4000-8000-000000000000-S1"},
		SubscribeFramework{ID: "lost-0009", Info: []byte("info"), Roles: []string{"*"}},
		RegisterAgent{Node: "n6", AttachKey: "k", Hostname: "h6", Address: "10.0.0.6", Total: bag(t, 4, 1024), Pool: "10.88.0.0/16"},
		LaunchTasks{
			Framework: "lost-0009", Agent: "ffffffff-0000-4000-8000-000000000000-S2", Role: "*", Executor: "e", Container: "c20", Info: []byte("executor"),
			Resources: bag(t, 1, 32), HostNetwork: true, Group: true,
			Tasks: []GivenTask{{"c21", "t21", "one", []byte("task"), bag(t, 1, 8)}, {"c22", "t22", "two", []byte("task"), nil}},
		},
		AdoptAgent{RegisterAgent: RegisterAgent{ID: "older-S4", Node: "n7", AttachKey: "k4", Address: "10.0.0.7", Info: []byte("agent"), Total: bag(t, 4, 64), Pool: "10.88.0.0/16"}},
		AdoptExecution{
			AdoptTask{LaunchTask: LaunchTask{Container: "c30", Framework: "lost-0009", Agent: "older-S4", Role: "*", Info: []byte("executor"), Resources: bag(t, 1, 32)}, State: TaskRunning, KillGrace: -1},
			Execution{ID: "e", Container: "c30"},
		},
		AdoptExecution{
			AdoptTask{LaunchTask: LaunchTask{Container: "c31", Task: "t31", Framework: "lost-0009", Agent: "older-S4", Role: "*", Info: []byte("task"), Resources: bag(t, 1, 8)}, State: TaskRunning, KillGrace: -1},
			Execution{ID: "e", Container: "c30", Group: []ContainerID{"c31"}},
		},
		RegisterAgent{Node: "n8", AttachKey: "k", Hostname: "h8", Address: "10.0.0.8", Total: one(t, amountOf(CPUs, 4), amountOf(CPUs, 2).With(Details{Revocable: true}), amountOf(Disk, 100)), Pool: "10.88.0.0/16"},
		ConvertResources{Agent: "ffffffff-0000-4000-8000-000000000000-S3", Take: one(t, amountOf(Disk, 50)), Give: one(t, sharedBy(onDisk(dynamic(amountOf(Disk, 50), "a"), "v")))},
		LaunchTask{Container: "s1", Task: "s1", Framework: "ffffffff-0000-4000-8000-000000000000-0000", Agent: "ffffffff-0000-4000-8000-000000000000-S3", Role: "a", Resources: one(t, amountOf(CPUs, 1).With(Details{Revocable: true}), sharedBy(onDisk(dynamic(amountOf(Disk, 50), "a"), "v")))},
	}
}

// Entries and the state they lead to, as format 1 wrote them: a program that reads them
// otherwise would tear a running cluster apart. UPDATE_GOLDEN=1 writes the file, once a
// format.
func TestGoldenLogOfFormat1(t *testing.T) {
	path := filepath.Join("testdata", "log-format-1.txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		var out strings.Builder
		m := NewMachine()
		for i, c := range goldenLog(t) {
			entry, _ := EncodeEntry(int64(i+1)*1e9, []Command{c}, 1<<20)
			m.Apply(uint64(i+1), 1, entry)
			h := m.Hash()
			out.WriteString(hex.EncodeToString(entry) + " " + hex.EncodeToString(h[:]) + "\n")
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	commands := goldenLog(t)
	if len(lines) != len(commands) || len(decoders) != 35 {
		t.Fatalf("%d entries, %d commands of %d kinds: the golden log must hold each kind", len(lines), len(commands), len(decoders))
	}
	m := NewMachine()
	for i, line := range lines {
		entryHex, hash, _ := strings.Cut(line, " ")
		entry, err := hex.DecodeString(entryHex)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := EncodeEntry(int64(i+1)*1e9, commands[i:i+1], 1<<20); !bytes.Equal(again, entry) {
			t.Errorf("entry %d (%T) is written differently now", i, commands[i])
		}
		out := m.Apply(uint64(i+1), 1, entry).(Applied)
		if out.Err != nil || out.Results[0].Err != nil {
			t.Fatalf("entry %d (%T): %v %v", i, commands[i], out.Err, out.Results)
		}
		if h := m.Hash(); hex.EncodeToString(h[:]) != hash {
			t.Errorf("entry %d (%T) leads to another state now", i, commands[i])
		}
	}
}

// A checksum keeps chance damage out, not whoever writes it himself: these two targets
// put the right one under whatever they are given.
func FuzzEntryWithRightChecksum(f *testing.F) {
	for _, c := range goldenLog(f) {
		entry, _ := EncodeEntry(1, []Command{c}, 1<<20)
		f.Add(entry[:len(entry)-4])
	}
	entry, _ := EncodeEntry(1, goldenLog(f), 1<<20)
	f.Add(entry[:len(entry)-4])
	f.Fuzz(func(t *testing.T, raw []byte) {
		entry := binary.BigEndian.AppendUint32(bytes.Clone(raw), crc32.Checksum(raw, castagnoli))
		m := NewMachine()
		m.Apply(1, 1, entry)
		m.Apply(2, 1, entry)
		before := m.Hash()
		m.View(func(s *State) { s.check(t) })
		if m.fatal != nil {
			return
		}
		snap, err := m.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if _, err := snap.WriteTo(&buf); err != nil {
			t.Fatal(err)
		}
		if err := m.Restore(&buf); err != nil {
			t.Fatalf("its own snapshot: %v", err)
		}
		if m.Hash() != before {
			t.Error("another state after its own snapshot")
		}
	})
}

func FuzzSnapshotWithRightChecksum(f *testing.F) {
	m := NewMachine()
	for i, c := range goldenLog(f) {
		entry, _ := EncodeEntry(int64(i+1)*1e9, []Command{c}, 1<<20)
		m.Apply(uint64(i+1), 1, entry)
		snap, err := m.Snapshot()
		if err != nil {
			f.Fatal(err)
		}
		var buf bytes.Buffer
		if _, err := snap.WriteTo(&buf); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes()[len(snapshotHeader) : buf.Len()-5])
	}
	f.Fuzz(func(t *testing.T, records []byte) {
		raw := append(append([]byte(snapshotHeader), records...), 0)
		raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
		m := NewMachine()
		if m.Restore(bytes.NewReader(raw)) != nil {
			return
		}
		entry, _ := EncodeEntry(1, goldenLog(t), 1<<20)
		m.Apply(99, 1, entry)
		m.Hash()
	})
}

// The log stands still while a snapshot is taken: 100,000 tasks must not take long.
func BenchmarkSnapshotOf100000Tasks(b *testing.B) {
	c := newCluster(b)
	f := c.framework()
	for node := range 1000 {
		a := c.do(RegisterAgent{Node: "n" + string(rune('a'+node%26)) + hex.EncodeToString([]byte{byte(node >> 8), byte(node)}), AttachKey: "k", Total: bag(b, 200, 1<<20)}).AgentID
		batch := make([]Command, 0, 100)
		for n := range 100 {
			batch = append(batch, launch(f, a, node*100+n, bag(b, 1, 1)))
		}
		for _, r := range c.apply(batch...) {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	}
	b.ResetTimer()
	for range b.N {
		if _, err := c.m.Snapshot(); err != nil {
			b.Fatal(err)
		}
	}
}
