// Package vm is one virtual machine under QEMU: started with a kernel, an initramfs and
// what its firmware shall hand it, watched through its console, and powered like a
// machine (power cut, power button, reset).
//
// Invariant: a machine ends with the process that started it, whatever that process dies
// of (on Linux), and everything its console printed is in its directory afterwards. It
// needs no privilege: the network is a Unix socket that package lan serves, and hardware
// virtualisation is used only where a probe has shown that it works (Accelerator).
//
// It knows nothing of clusters and of what runs inside; package cluster does.
package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/mesolith/mesolith/internal/sockpath"
)

// Program is the emulator, found in PATH.
const Program = "qemu-system-x86_64"

// ControlPort is the name of the virtio serial port that the host can talk through.
const ControlPort = "org.mesolith.control"

// Config says what a machine is.
type Config struct {
	Name      string
	Dir       string // of its own: console.log, qemu.log, qmp.sock, control.sock
	Kernel    string // a bzImage, or a vmlinux with a PVH note, which starts faster
	Initramfs string
	Cmdline   string
	Accel     string // AccelKVM or AccelTCG
	MemoryMB  int
	CPUs      int // 0: one, which boots as fast as two under emulation
	UUID      string
	Serial    string
	FwCfg     []FwCfg
	NICs      []NIC
	Disks     []Disk
	Extra     []string // more of QEMU's arguments
	Log       *slog.Logger
}

// FwCfg is a file that the firmware hands to the guest.
type FwCfg struct{ Name, File string }

// NIC is a virtio network card plugged into a socket of a LAN.
type NIC struct {
	MAC    net.HardwareAddr
	Socket string
}

// Disk is a raw image file as a virtio disk.
type Disk struct{ File, Serial string }

// VM is a machine that was started.
type VM struct {
	Console *Console

	cfg  Config
	qmp  *qmp
	proc Process
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how QEMU ended; valid once done is closed
}

// ErrEnded says that the machine is off.
var ErrEnded = errors.New("the machine is off")

// connectFor is how long QEMU may take to open its control socket on a busy host.
const connectFor = 30 * time.Second

// Start powers a machine on. It returns when QEMU answers, long before the guest does.
func Start(ctx context.Context, cfg Config) (*VM, error) {
	v, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start machine %s: %w", cfg.Name, err)
	}
	return v, nil
}

func start(ctx context.Context, cfg Config) (*VM, error) {
	args, err := arguments(cfg)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"qmp.sock", "control.sock"} {
		if err := os.Remove(filepath.Join(cfg.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	file, err := os.OpenFile(filepath.Join(cfg.Dir, "console.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	complaints, err := os.Create(filepath.Join(cfg.Dir, "qemu.log"))
	if err != nil {
		file.Close()
		return nil, err
	}
	v := &VM{cfg: cfg, Console: newConsole(file), done: make(chan struct{})}
	v.cmd = exec.Command(Program, args...)
	v.cmd.Dir = cfg.Dir
	v.cmd.Stdout = v.Console
	v.cmd.Stderr = complaints
	endWithParent(v.cmd)

	started := make(chan error, 1)
	go v.live(started, complaints)
	if err := <-started; err != nil {
		return nil, err
	}
	if v.proc, err = Identify(v.cmd.Process.Pid); err != nil {
		v.Kill()
		return nil, err
	}
	if v.qmp, err = v.connect(ctx); err != nil {
		v.Kill()
		return nil, err
	}
	return v, nil
}

// live is QEMU's life. The kernel ties a child's death signal to the thread that made it,
// so that thread waits here for as long as the child lives.
func (v *VM) live(started chan<- error, complaints *os.File) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer complaints.Close()
	err := v.cmd.Start()
	if err != nil {
		v.Console.close()
		close(v.done)
		started <- err
		return
	}
	started <- nil
	v.err = v.cmd.Wait()
	v.Console.close()
	close(v.done)
}

func (v *VM) connect(ctx context.Context) (*qmp, error) {
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := sockpath.Dial(ctx, filepath.Join(v.cfg.Dir, "qmp.sock"))
		if err == nil {
			return newQMP(ctx, conn)
		}
		select {
		case <-v.done:
			return nil, fmt.Errorf("QEMU ended at once: %w", v.complaint())
		case <-ctx.Done():
			return nil, fmt.Errorf("QEMU does not answer: %w", err)
		case <-tick.C:
		}
	}
}

// complaint is what QEMU said when it ended.
func (v *VM) complaint() error {
	text, err := os.ReadFile(filepath.Join(v.cfg.Dir, "qemu.log"))
	if said := strings.TrimSpace(string(text)); err == nil && said != "" {
		return errors.New(said)
	}
	if v.err != nil {
		return v.err
	}
	return ErrEnded
}

// Process is the emulator's.
func (v *VM) Process() Process { return v.proc }

// Config is what the machine was started with.
func (v *VM) Config() Config { return v.cfg }

// Done is closed when the machine is off.
func (v *VM) Done() <-chan struct{} { return v.done }

// Kill cuts the power: the guest gets no chance to do anything. It waits for the end.
func (v *VM) Kill() {
	if v.cmd.Process != nil {
		_ = v.cmd.Process.Kill() // an error says that it has ended already
	}
	<-v.done
	if v.qmp != nil {
		v.qmp.close()
	}
}

// PowerButton presses the power button and waits until the machine is off or ctx ends.
func (v *VM) PowerButton(ctx context.Context) error {
	if _, err := v.Execute(ctx, "system_powerdown", nil); err != nil {
		return err
	}
	select {
	case <-v.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("machine %s did not turn off: %w", v.cfg.Name, ctx.Err())
	}
}

// Reset presses the reset button: memory is lost, devices stay.
func (v *VM) Reset(ctx context.Context) error {
	_, err := v.Execute(ctx, "system_reset", nil)
	return err
}

// Pause stops the guest's clock and CPU; Resume lets them go on.
func (v *VM) Pause(ctx context.Context) error {
	_, err := v.Execute(ctx, "stop", nil)
	return err
}

// Resume ends a Pause.
func (v *VM) Resume(ctx context.Context) error {
	_, err := v.Execute(ctx, "cont", nil)
	return err
}

// Execute runs a command of QEMU's machine protocol.
func (v *VM) Execute(ctx context.Context, command string, arguments any) ([]byte, error) {
	out, err := v.qmp.execute(ctx, command, arguments)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", v.cfg.Name, err)
	}
	return out, nil
}

// Events counts the events of one name that QEMU has reported, such as RESET or WATCHDOG.
func (v *VM) Events(name string) int { return v.qmp.count(name) }

// Control connects to the guest's control port. What is written before the guest opens
// it is kept.
func (v *VM) Control(ctx context.Context) (net.Conn, error) {
	conn, err := sockpath.Dial(ctx, filepath.Join(v.cfg.Dir, "control.sock"))
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", v.cfg.Name, err)
	}
	return conn, nil
}

// arguments is QEMU's command line. Sockets in the machine's directory are named relative
// to it, because a socket's path is short.
func arguments(cfg Config) ([]string, error) {
	cpu := "max"
	if cfg.Accel == AccelKVM {
		cpu = "host"
	}
	args := []string{
		"-name", cfg.Name, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35,accel=" + cfg.Accel + ",sata=off,smbus=off,vmport=off,usb=off",
		"-cpu", cpu, "-smp", strconv.Itoa(max(cfg.CPUs, 1)), "-m", strconv.Itoa(cfg.MemoryMB) + "M",
		"-kernel", cfg.Kernel, "-initrd", cfg.Initramfs, "-append", cfg.Cmdline,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=qmp,path=qmp.sock,server=on,wait=off", "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=control,path=control.sock,server=on,wait=off",
		"-device", "virtserialport,chardev=control,name=" + ControlPort,
		"-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset",
	}
	smbios := "type=1,manufacturer=QEMU,product=Mesolith test machine"
	if cfg.UUID != "" {
		smbios += ",uuid=" + cfg.UUID
	}
	if cfg.Serial != "" {
		smbios += ",serial=" + cfg.Serial
	}
	args = append(args, "-smbios", smbios)
	for i, n := range cfg.NICs {
		id := "lan" + strconv.Itoa(i)
		socket, err := filepath.Rel(cfg.Dir, n.Socket)
		if err != nil || len(socket) > len(n.Socket) {
			socket = n.Socket
		}
		args = append(args,
			"-netdev", "stream,id="+id+",server=off,addr.type=unix,addr.path="+escape(socket),
			"-device", "virtio-net-pci,netdev="+id+",mac="+n.MAC.String()+",romfile=")
	}
	for i, d := range cfg.Disks {
		id := "disk" + strconv.Itoa(i)
		args = append(args,
			"-drive", "if=none,format=raw,id="+id+",file="+escape(d.File),
			"-device", "virtio-blk-pci,drive="+id+",serial="+escape(d.Serial))
	}
	for _, f := range cfg.FwCfg {
		args = append(args, "-fw_cfg", "name="+f.Name+",file="+escape(f.File))
	}
	args = append(args, cfg.Extra...)
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return nil, fmt.Errorf("argument %q holds a zero byte", a)
		}
	}
	return args, nil
}

// escape doubles the commas of a value, as QEMU's option syntax wants.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
