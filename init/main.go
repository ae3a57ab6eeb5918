// Command init is PID 1 of a Mesolith node, in three lives: up (phases with deadlines),
// cruise (programs are supervised, orphans reaped, the watchdog fed) and down (an
// orderly end).
//
// Invariant: it parses nothing that comes from the network: only /proc, the kernel's
// tables of modules, the node plan that noded hands it on a pipe, and the frames of its
// own socket. A panic here is a kernel panic and a reboot; the trace goes to the
// kernel's log, which pstore keeps.
//
// What a node is to be is noded's decision, containers are isolated's, the cluster is
// clusterd's; init starts these three, noded first, and starts them again for ever.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/mesolith/mesolith/init/control"
	"github.com/mesolith/mesolith/init/fault"
	"github.com/mesolith/mesolith/init/kmsg"
	"github.com/mesolith/mesolith/init/modules"
	"github.com/mesolith/mesolith/init/mounts"
	"github.com/mesolith/mesolith/init/phase"
	"github.com/mesolith/mesolith/init/pstore"
	"github.com/mesolith/mesolith/init/reap"
	"github.com/mesolith/mesolith/init/shutdown"
	"github.com/mesolith/mesolith/init/supervise"
	"github.com/mesolith/mesolith/init/watchdog"
	"github.com/mesolith/mesolith/internal/nodeplan"
	"golang.org/x/sys/unix"
)

// maxOrphans bounds the exit statuses that are kept for isolated: more than a node has
// containers.
const maxOrphans = 8192

// machine is what the three lives share. The main goroutine owns it.
type machine struct {
	log     *kmsg.Log
	dog     *watchdog.Dog
	table   *modules.Table
	devices []string // modaliases found at boot
	loader  *modules.Loader
	events  *modules.Events
	able    chan struct{} // closed when the modules that containers need are loaded; then nil
	settled chan struct{} // closed when the devices of the boot have drivers; then nil
	locked  chan struct{} // closed when modules are locked
	reaper  *reap.Reaper
	sup     *supervise.Supervisor
	sockets map[string]*os.File
	plans   chan nodeplan.Plan
	power   chan ending
	began   time.Time
	told    bool           // how the last boot ended; the boots phase ran
	plan    *nodeplan.Plan // the first that came; the machine is made of it
}

type ending struct {
	off bool
	why string
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this program is PID 1 of a node's image; on a running system use lith")
		os.Exit(2)
	}
	m := &machine{
		reaper: reap.New(maxOrphans), sockets: map[string]*os.File{}, locked: make(chan struct{}),
		able: make(chan struct{}), settled: make(chan struct{}),
		plans: make(chan nodeplan.Plan, 1), power: make(chan ending, 1), began: time.Now(),
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)

	var how ending
	if err := m.up(); err != nil {
		how.why = pstore.BootFailed + ": " + err.Error()
	} else {
		m.log.Say("up %.2fs", time.Since(m.began).Seconds())
		how = m.cruise(signals)
	}
	m.down(how)
}

func (m *machine) loop() phase.Loop {
	return phase.Loop{
		Say:  func(f string, a ...any) { m.log.Say(f, a...) },
		Warn: func(f string, a ...any) { m.log.Warn(f, a...) },
		Feed: m.feed,
	}
}

func (m *machine) feed() {
	if err := m.dog.Feed(); err != nil {
		m.log.Warn("%v", err)
	}
}

// cruise runs until somebody asks for the end. The watchdog is fed only after the
// supervisor has answered.
func (m *machine) cruise(signals <-chan os.Signal) ending {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	go m.drivers(m.able)
	answers := true
	for {
		select {
		case <-m.able:
			m.able = nil
			m.startKeeper()
		case <-m.settled:
			m.settled = nil
			m.lock()
		case p := <-m.plans:
			m.take(p)
		case e := <-m.power:
			return e
		case s := <-signals:
			return ending{off: s == unix.SIGTERM, why: "signal " + s.String()}
		case <-tick.C:
			fault.At("tick")
			if fed := beat(m.sup, m.feed); fed != answers {
				answers = fed
				m.tellBeat(fed)
			}
		}
	}
}

// beat feeds the watchdog if the supervisor answers, and says whether it did.
func beat(sup *supervise.Supervisor, feed func()) bool {
	if !sup.Ping(time.Second) {
		return false
	}
	feed()
	return true
}

func (m *machine) tellBeat(fed bool) {
	if fed {
		m.log.Warn("supervisor answers again, watchdog fed")
		return
	}
	m.log.Warn("supervisor does not answer, watchdog not fed: it will reset the machine")
}

// take makes the machine what the first plan says and starts the programs that waited
// for it. Later plans (noded was started again) must say the same.
func (m *machine) take(p nodeplan.Plan) {
	if m.plan != nil {
		if *m.plan != p {
			m.log.Warn("noded handed a changed plan; it takes effect at the next boot")
		}
		return
	}
	m.plan = &p
	err := m.loop().Run([]phase.Phase{
		{Name: "plan", Deadline: 20 * time.Second, Run: func() error { return m.carryOut(p) }},
	})
	if err != nil {
		m.log.Warn("%v", err)
	}
	m.sup.Want("clusterd")
	m.startKeeper()
	m.log.Say("ready %.2fs as %s", time.Since(m.began).Seconds(), p.Hostname)
	m.lock()
}

// startKeeper starts isolated once the machine is what the plan says and can have
// containers. clusterd does not wait for that: it finds its peers meanwhile.
func (m *machine) startKeeper() {
	if m.plan != nil && m.able == nil {
		m.sup.Want("isolated")
	}
}

// down ends everything in order. It does not return.
func (m *machine) down(e ending) {
	m.log.Warn("%s", pstore.GoingDown(e.why))
	stop := func(name string, grace time.Duration) func() error {
		return func() error { m.sup.Stop(name, grace); return nil }
	}
	var steps []phase.Phase
	if m.sup != nil {
		steps = []phase.Phase{
			{Name: "stop-clusterd", Deadline: 15 * time.Second, Run: stop("clusterd", 10*time.Second)},
			{Name: "stop-tasks", Deadline: 20 * time.Second, Run: func() error {
				return shutdown.Tasks(mounts.CgroupDir+"/tasks", 10*time.Second)
			}},
			{Name: "stop-isolated", Deadline: 10 * time.Second, Run: stop("isolated", 5*time.Second)},
			{Name: "stop-noded", Deadline: 10 * time.Second, Run: stop("noded", 5*time.Second)},
			{Name: "kill", Deadline: 5 * time.Second, Run: shutdown.Everything},
		}
	}
	if !m.told { // the boot did not come as far as to wait if it has failed before
		steps = append(steps, phase.Phase{Name: "boots", Deadline: pstore.Pause + 10*time.Second, Run: m.boots})
	}
	steps = append(steps, phase.Phase{Name: "unmount", Deadline: 30 * time.Second, Run: shutdown.FileSystems})
	if err := m.loop().Run(steps); err != nil {
		m.log.Warn("%v", err)
	}
	word := "reboot"
	if e.off {
		word = "power off"
	}
	m.log.Warn("%s", word)
	err := shutdown.End(e.off)
	panic(fmt.Sprintf("the kernel refused to end: %v", err)) // panic=10 reboots
}

func (m *machine) services() []control.Service {
	var out []control.Service
	for _, s := range m.sup.List() {
		out = append(out, control.Service{
			Name: s.Name, State: s.State, PID: s.PID, Restarts: s.Restarts,
			LastExit: s.LastExit, SinceUnixMS: s.Since.UnixMilli(),
		})
	}
	return out
}
