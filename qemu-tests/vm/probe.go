package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Accelerators of QEMU.
const (
	AccelKVM = "kvm" // the processor's own virtualisation
	AccelTCG = "tcg" // software emulation
)

// probeFor is how long a machine under KVM may take to print.
const probeFor = 8 * time.Second

// Hello is what the probe's program prints.
const Hello = "mesolith probe: this kernel runs programs"

// Accelerator decides how machines with this kernel run on this host. That /dev/kvm is
// there proves nothing: some hosts offer one on which kernels hang. So the kernel is
// booted once with a program that prints, and the outcome is remembered in cacheDir by
// kernel, host and emulator.
func Accelerator(ctx context.Context, kernel, cacheDir string, log *slog.Logger) (string, error) {
	if kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return AccelTCG, nil // absent, or not for this user
	} else if err := kvm.Close(); err != nil {
		return "", fmt.Errorf("close /dev/kvm: %w", err)
	}
	key, err := probeKey(ctx, kernel)
	if err != nil {
		return "", fmt.Errorf("probe KVM: %w", err)
	}
	note := filepath.Join(cacheDir, "accelerator-"+key)
	if text, err := os.ReadFile(note); err == nil {
		if accel := strings.TrimSpace(string(text)); accel == AccelKVM || accel == AccelTCG {
			return accel, nil
		}
	}
	log.Info("trying once whether this host's KVM boots the kernel", "seconds_at_most", probeFor.Seconds())
	accel := AccelKVM
	if _, err := ProbeBoot(ctx, kernel, AccelKVM, probeFor, log); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		log.Info("KVM is offered here but does not boot the kernel: software emulation is used", "reason", firstLine(err))
		accel = AccelTCG
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", fmt.Errorf("remember the probe of KVM: %w", err)
	}
	if err := os.WriteFile(note, []byte(accel+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("remember the probe of KVM: %w", err)
	}
	return accel, nil
}

// CacheDir is where outcomes of probes are kept for this user.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache directory: %w", err)
	}
	return filepath.Join(dir, "mesolith"), nil
}

func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// probeKey is a hash of the kernel's bytes, the host's kernel and processor, and QEMU.
func probeKey(ctx context.Context, kernel string) (string, error) {
	h := sha256.New()
	f, err := os.Open(kernel)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	version, err := exec.CommandContext(ctx, Program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", Program, err)
	}
	h.Write(version)
	for _, file := range []string{"/proc/sys/kernel/osrelease", "/proc/sys/kernel/version", "/etc/machine-id"} {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		h.Write(text)
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for _, l := range strings.Split(string(cpu), "\n") {
			if strings.HasPrefix(l, "model name") {
				io.WriteString(h, l)
				break
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// ProbeBoot boots a kernel with a program that prints Hello and says how long that took
// from power-on. It is also the measure that other boots are compared with.
func ProbeBoot(ctx context.Context, kernel, accel string, limit time.Duration, log *slog.Logger) (took time.Duration, err error) {
	dir, err := os.MkdirTemp("", "mesolith-probe-")
	if err != nil {
		return 0, fmt.Errorf("probe boot: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	initramfs := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(initramfs, printingInitramfs(Hello), 0o600); err != nil {
		return 0, fmt.Errorf("probe boot: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	v, err := Start(ctx, Config{
		Name: "probe", Dir: filepath.Join(dir, "vm"), Kernel: kernel, Initramfs: initramfs,
		Cmdline: "console=ttyS0 quiet panic=-1 cryptomgr.notests rootfstype=ramfs",
		Accel:   accel, MemoryMB: 256, Log: log,
	})
	if err != nil {
		return 0, fmt.Errorf("probe boot: %w", err)
	}
	defer v.Kill()
	line, err := v.Console.Wait(ctx, 0, Hello)
	if err != nil {
		return 0, fmt.Errorf("probe boot with %s: %w", accel, err)
	}
	return line.At.Sub(began), nil
}

// printingInitramfs is an archive in the kernel's "newc" form with a console and /init.
func printingInitramfs(text string) []byte {
	var b bytes.Buffer
	add := func(ino int, name string, mode, major, minor int, body []byte) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			ino, mode, 0, 0, 1, 0, len(body), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name)
		b.WriteByte(0)
		pad(&b)
		b.Write(body)
		pad(&b)
	}
	add(1, "dev", 0o040755, 0, 0, nil)
	add(2, "dev/console", 0o020600, 5, 1, nil)
	add(3, "init", 0o100755, 0, 0, PrintingProgram(text))
	add(0, "TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

// PrintingProgram is the smallest ELF program for x86-64 Linux that writes a line and
// then waits for ever: write(1, text, len); for { pause() }.
func PrintingProgram(text string) []byte {
	line := text + "\n"
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 0, 0, 0, 0, // lea rsi, [rip + distance to text]
		0xba, 0, 0, 0, 0, // mov edx, length
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov eax, 34 (pause)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp back to mov eax, 34
	}
	le := binary.LittleEndian
	le.PutUint32(code[13:], uint32(len(code)-17))
	le.PutUint32(code[18:], uint32(len(line)))
	return SmallProgram(append(code, line...))
}

// SmallProgram is an ELF program for x86-64 Linux whose code begins at the first byte.
func SmallProgram(code []byte) []byte {
	const base, headers = 0x400000, 64 + 56
	le := binary.LittleEndian
	size := uint64(headers + len(code))
	elf := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	elf = le.AppendUint16(elf, 2)  // executable
	elf = le.AppendUint16(elf, 62) // x86-64
	elf = le.AppendUint32(elf, 1)
	elf = le.AppendUint64(elf, base+headers) // entry
	elf = le.AppendUint64(elf, 64)           // program headers
	elf = le.AppendUint64(elf, 0)            // no section headers
	elf = le.AppendUint32(elf, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		elf = le.AppendUint16(elf, v)
	}
	elf = le.AppendUint32(elf, 1) // PT_LOAD
	elf = le.AppendUint32(elf, 5) // readable, executable
	for _, v := range []uint64{0, base, base, size, size, 0x1000} {
		elf = le.AppendUint64(elf, v)
	}
	return append(elf, code...)
}
