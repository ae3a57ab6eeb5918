package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/mesolith/mesolith/init/control"
	"github.com/mesolith/mesolith/init/fault"
	"github.com/mesolith/mesolith/init/kmsg"
	"github.com/mesolith/mesolith/init/modules"
	"github.com/mesolith/mesolith/init/mounts"
	"github.com/mesolith/mesolith/init/phase"
	"github.com/mesolith/mesolith/init/pstore"
	"github.com/mesolith/mesolith/init/shutdown"
	"github.com/mesolith/mesolith/init/supervise"
	"github.com/mesolith/mesolith/init/sysctl"
	"github.com/mesolith/mesolith/init/unpacked"
	"github.com/mesolith/mesolith/init/watchdog"
	"github.com/mesolith/mesolith/internal/nodeplan"
	"golang.org/x/sys/unix"
)

const (
	bootList     = "/usr/lib/mesolith/modules.boot"
	firstTimeout = 60 * time.Second // of the watchdog, until the plan says another
	leastMemory  = 200 << 20        // MemTotal of a machine of 256 MiB, less its kernel and image
)

// up is the boot. What is vital ends in a reboot, everything else in a degraded node
// that says what it lacks.
func (m *machine) up() error {
	os.Setenv("PATH", programPath)
	// Before these there is neither a log to speak to nor a device to open.
	early := mounts.Kernel()
	var err error
	if m.log, err = kmsg.Open(); m.log == nil {
		early = errors.Join(early, err)
	} else if err != nil {
		m.log.Warn("%v", err) // what the console shows is not worth a reboot
	}
	go m.reap()
	return m.loop().Run(fault.Phases([]phase.Phase{
		{Name: "mounts", Deadline: 10 * time.Second, OnFailure: phase.Reboot, Run: func() error { return early }},
		{Name: "settings", Deadline: 5 * time.Second, Run: m.settings},
		{Name: "root", Deadline: 5 * time.Second, Run: mounts.PivotableRoot},
		{Name: "watchdog", Deadline: 20 * time.Second, Run: m.watchdog},
		{Name: "image", Deadline: 10 * time.Second, OnFailure: phase.Reboot, Run: m.image},
		{Name: "groups", Deadline: 10 * time.Second, OnFailure: phase.Retry, Run: m.groups},
		{Name: "state", Deadline: 10 * time.Second, OnFailure: phase.Reboot, Run: m.state},
		{Name: "sockets", Deadline: 5 * time.Second, OnFailure: phase.Reboot, Run: m.listen},
		{Name: "cards", Deadline: 60 * time.Second, Run: m.cards},
		{Name: "programs", Deadline: 10 * time.Second, OnFailure: phase.Reboot, Run: m.programs},
		{Name: "boots", Deadline: pstore.Pause + 10*time.Second, Run: m.boots},
	}))
}

func (m *machine) settings() error {
	// Ctrl-Alt-Del becomes a signal to this process: an orderly reboot.
	cad := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	files := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	core := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY})
	unix.Umask(0o022)
	return errors.Join(cad, files, core, sysctl.Set("/proc/sys"))
}

// watchdog loads the hardware's own watchdog, or the kernel's, before everything else.
func (m *machine) watchdog() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("ask for the kernel's name: %w", err)
	}
	table, err := modules.ReadTable("/lib/modules/" + unix.ByteSliceToString(name.Release[:]))
	if err != nil {
		return err
	}
	var denied []string
	if !onQEMU() {
		denied = []string{"qemu_fw_cfg"}
	}
	m.table = table
	m.loader = modules.NewLoader(modules.Config{Table: table, Denied: denied})
	if m.events, err = modules.Listen(); err != nil {
		m.log.Warn("devices that come late get no driver: %v", err)
	}
	err = modules.Devices("/sys/devices", func(alias string) error {
		m.devices = append(m.devices, alias)
		return nil
	})
	err = errors.Join(err, m.loadKind(modules.Watchdog))
	if _, missing := os.Stat("/dev/watchdog"); missing != nil {
		err = errors.Join(err, m.loader.Load("softdog", "nowayout=1 soft_panic=1"))
	}
	dog, openErr := watchdog.Open(firstTimeout)
	if dog != nil {
		m.dog = dog
	}
	if err := m.records(); err != nil {
		m.log.Warn("how this boot ends will not be known: %v", err)
	}
	return errors.Join(err, openErr)
}

// image refuses to run what the kernel did not unpack whole: another boot may fetch it
// better, and a machine that is too small says so again and again.
func (m *machine) image() error {
	said, err := kmsg.Kernel()
	if err != nil {
		m.log.Warn("%v", err)
	}
	var failed error
	if complaint := unpacked.Complaint(said); complaint != "" {
		failed = errors.New(complaint)
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		if have := uint64(info.Totalram) * uint64(info.Unit); have < leastMemory {
			m.log.Warn("this machine has %d MiB of memory for programs; a node wants %d MiB, and more for tasks", have>>20, leastMemory>>20)
		}
	}
	return errors.Join(unpacked.Check(""), failed)
}

func (m *machine) groups() error {
	return errors.Join(mounts.Late(), mounts.Cgroups(groupsOf(m.defaults())))
}

func (m *machine) state() error {
	return errors.Join(mounts.Run(), mounts.RAM(sizesOf(m.defaults())))
}

// defaults is the plan of a machine of which nothing but its memory is known.
func (m *machine) defaults() nodeplan.Plan {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nodeplan.Default(256<<20, 0, 0)
	}
	return nodeplan.Default(uint64(info.Totalram)*uint64(info.Unit), 0, 0)
}

func groupsOf(p nodeplan.Plan) mounts.Groups {
	return mounts.Groups{
		InitMin: p.InitMinBytes, NodedMin: p.NodedMinBytes, ClusterdMin: p.ClusterdMinBytes, IsolatedMin: p.IsolatedMinBytes,
		StoreMax: p.StoreMaxBytes, TasksMax: p.TasksMaxBytes, TasksMaxPids: p.TasksMaxPids,
	}
}

func sizesOf(p nodeplan.Plan) mounts.Sized {
	return mounts.Sized{
		StateBytes: p.StateBytes, StateInodes: p.StateInodes,
		StoreBytes: p.RAMStoreBytes, StoreInodes: p.RAMStoreInodes,
		// More than tasks' memory can hold, in files or in inodes, which are a kilobyte each.
		TasksBytes: p.TasksMaxBytes + 2*p.RAMStoreBytes, TasksInodes: (p.TasksMaxBytes + 2*p.RAMStoreBytes) / 512,
	}
}

// loadKind loads the drivers of one kind that the devices found so far ask for.
func (m *machine) loadKind(kind modules.Kind) error {
	var errs []error
	for _, alias := range m.devices {
		for _, name := range m.table.Match(alias) {
			if m.table.Kind(name) == kind {
				errs = append(errs, m.loader.Device(alias))
			}
		}
	}
	return errors.Join(errs...)
}

// cards loads what noded needs to find out what this machine is to be; everything else
// is loaded while noded does so.
func (m *machine) cards() error {
	if m.loader == nil {
		return errors.New("no table of modules")
	}
	err := m.loadKind(modules.Network)
	if onQEMU() {
		err = errors.Join(err, m.loader.Load("qemu_fw_cfg", ""))
	}
	return err
}

// modules loads what the boot list names: what containers and their networks need.
func (m *machine) modules() error {
	if m.loader == nil {
		return errors.New("no table of modules")
	}
	return m.loader.BootList(bootList)
}

// drivers loads what containers need, then gives every other device its driver, disks and
// the like, while noded and clusterd start already: a node in RAM mode can wait for both.
// It closes able, and settled when done.
func (m *machine) drivers(able chan<- struct{}) {
	loop := m.loop()
	loop.Feed = nil // the cruise's loop feeds, and only it
	if err := loop.Run([]phase.Phase{{Name: "modules", Deadline: 120 * time.Second, Run: m.modules}}); err != nil {
		m.log.Warn("%v", err)
	}
	close(able)
	err := loop.Run([]phase.Phase{{Name: "drivers", Deadline: 120 * time.Second, Run: func() error {
		if m.loader == nil {
			return errors.New("no table of modules")
		}
		var errs []error
		for _, alias := range m.devices {
			errs = append(errs, m.loader.Device(alias))
		}
		if m.events != nil {
			// What the drivers found meanwhile has been announced; the rest comes late.
			for alias, ok := m.events.Next(30 * time.Millisecond); ok; alias, ok = m.events.Next(30 * time.Millisecond) {
				errs = append(errs, m.loader.Device(alias))
			}
			go m.lateDevices()
		}
		m.log.Say("%s", m.loader.Summary())
		return errors.Join(errs...)
	}}})
	if err != nil {
		m.log.Warn("%v", err)
	}
	close(m.settled)
}

// lateDevices serves devices that are announced later, until modules are locked.
func (m *machine) lateDevices() {
	for {
		select {
		case <-m.locked:
			m.events.Close()
			return
		default:
		}
		alias, ok := m.events.Next(time.Second)
		if !ok {
			continue
		}
		if err := m.loader.Device(alias); err != nil {
			m.log.Warn("late device: %v", err)
		}
	}
}

// records loads what keeps the kernel's last words over a reboot, unless the firmware's
// own store (ERST) does: it must be there before anything can fail.
func (m *machine) records() error {
	if raw, err := os.ReadFile("/sys/module/pstore/parameters/backend"); err == nil && !strings.HasPrefix(string(raw), "(null)") {
		return nil
	}
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		// No device asks for the store in the firmware's variables.
		return m.loader.Load("efi_pstore", "pstore_disable=N")
	}
	if err := m.loader.Load("ramoops", "mem_name=mesolith record_size=16384 max_reason=4"); err != nil {
		return err
	}
	// One record an end: ramoops takes no second part.
	return mounts.Records("kmsg_bytes=1024")
}

// boots says how the last boot ended, and makes a machine that boots again and again wait,
// so that it does not hammer the server it boots from.
func (m *machine) boots() error {
	m.told = true
	if err := errors.Join(mounts.Records(""), os.MkdirAll(mounts.LogDir, 0o755)); err != nil {
		m.log.Warn("%v", err)
	}
	ends, err := pstore.Collect(mounts.LogDir + "/crash")
	if len(ends) > 0 {
		m.log.Warn("%d records of earlier ends are in the log crash", len(ends))
	}
	if err != nil {
		m.log.Warn("%v", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		m.log.Warn("%v", err)
	}
	last, inRow := pstore.LastEnd(ends, m.dog.Bit(), time.Now(), time.Duration(info.Uptime)*time.Second)
	m.log.Warn("how the last boot ended: %s", last)
	if err := os.WriteFile(mounts.RunDir+"/last-end", []byte(last+"\n"), 0o644); err != nil {
		m.log.Warn("%v", err)
	}
	wait, err := pstore.Boot(time.Now(), inRow)
	if wait > 0 {
		m.log.Warn("third boot within %s, waiting %s", pstore.Window, wait)
		time.Sleep(wait)
	}
	return err
}

func (m *machine) programs() error {
	fd, err := control.Listen(mounts.RunDir + "/init.sock")
	if err != nil {
		return err
	}
	server := &control.Server{Reaper: m.reaper, Services: m.services, Power: m.ask, Warn: m.log.Warn}
	m.sup, err = supervise.New(supervise.Config{
		Reaper: m.reaper, LogDir: mounts.LogDir, Say: m.log.Say, Warn: m.log.Warn, Prepare: m.prepare,
	}, programs())
	if err != nil {
		return err
	}
	go m.sup.Run(nil) // ends with the machine
	go func() {
		if err := server.Run(fd); err != nil {
			m.log.Warn("init.sock: %v", err)
		}
	}()
	go func() {
		err := shutdown.Button(func() { m.ask(true, "power button") })
		m.log.Warn("power button: %v", err)
	}()
	m.sup.Want("noded")
	fault.Serve(fault.Tools{Start: m.reaper.Start, Reaped: func() uint64 { _, n := m.reaper.Registered(); return n }, Say: m.log.Say})
	return nil
}

// ask begins the end; a second request changes nothing.
func (m *machine) ask(off bool, why string) {
	select {
	case m.power <- ending{off, why}:
	default:
	}
}

// carryOut makes the machine what a plan says. Each part is done whatever the others say.
func (m *machine) carryOut(p nodeplan.Plan) error {
	var errs []error
	if p.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
			errs = append(errs, fmt.Errorf("set host name %s: %w", p.Hostname, err))
		}
	}
	errs = append(errs, mounts.RAM(sizesOf(p)), mounts.Limits(groupsOf(p)))
	errs = append(errs, m.dog.SetTimeout(time.Duration(p.WatchdogSeconds)*time.Second))
	return errors.Join(errs...)
}

// lock forbids loading modules once every device has its driver and the plan says so.
func (m *machine) lock() {
	if m.plan == nil || m.plan.ModulesLate || m.settled != nil {
		return
	}
	close(m.locked)
	if err := modules.Lock(); err != nil {
		m.log.Warn("%v", err)
		return
	}
	m.log.Say("no module can be loaded any more")
}

// reapAgain is how soon a sweep that failed is tried again: no signal will ask for it.
const reapAgain = time.Second

// reap takes the dead for as long as the machine lives.
func (m *machine) reap() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	failed := false
	for {
		var again <-chan time.Time
		if failed {
			again = time.After(reapAgain)
		}
		select {
		case <-died:
		case <-again:
		}
		err := m.reaper.Sweep()
		switch {
		case err != nil && !failed:
			m.log.Warn("reap: %v; the dead wait", err)
		case err == nil && failed:
			m.log.Warn("reap: the dead are taken again")
		}
		failed = err != nil
	}
}

// onQEMU reports whether this is a machine of QEMU's, where fw_cfg may be asked.
func onQEMU() bool {
	vendor, err := os.ReadFile("/sys/class/dmi/id/sys_vendor")
	if err == nil && strings.TrimSpace(string(vendor)) == "QEMU" {
		return true
	}
	_, err = os.Stat("/sys/bus/acpi/devices/QEMU0002:00")
	return err == nil
}
