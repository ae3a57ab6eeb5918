//go:build pid1faults

package fault

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// orphans: orphans COUNT [PROGRAM…], which are killed when the storm has begun.
func orphans(t Tools, words []string) error {
	if len(words) == 0 {
		return fmt.Errorf("how many?")
	}
	count, err := strconv.ParseUint(words[0], 10, 31)
	if err != nil || count == 0 {
		return fmt.Errorf("%q is no number of orphans", words[0])
	}
	const path = "/run/orphans"
	if err := os.WriteFile(path, stormProgram(uint32(count)), 0o700); err != nil {
		return err
	}
	before, began := t.Reaped(), time.Now()
	pid, exit, err := t.Start(func() (int, error) {
		return syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{Dir: "/"})
	})
	if err != nil {
		return err
	}
	t.Say("fault: storm of %d orphans begins, pid %d", count, pid)
	if err := kill(t, words[1:]); err != nil {
		t.Say("fault: %v", err)
	}
	go func() {
		status := <-exit
		// The last orphan may outlive its grandparent by a moment.
		for end := time.Now().Add(10 * time.Second); t.Reaped()-before <= count && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		t.Say("fault: storm ended with status %d, %d reaped of %d, zombies left %d, in %.1f s",
			status.ExitStatus(), t.Reaped()-before, count, zombies(), time.Since(began).Seconds())
	}()
	return nil
}

// zombies counts PID 1's dead children.
func zombies() (n int) {
	list, err := os.ReadDir("/proc")
	if err != nil {
		return -1
	}
	for _, e := range list {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		raw, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		var comm, state string
		var parent int
		if err != nil {
			continue
		}
		if _, err := fmt.Sscanf(string(raw), "%d %s %s %d", &pid, &comm, &state, &parent); err == nil && state == "Z" && parent == 1 {
			n++
		}
	}
	return n
}

// stormProgram is an ELF program for x86-64 that makes count orphans and exits with 0. A
// program of Go's would take a hundred times as long for each.
func stormProgram(count uint32) []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{
		0x41, 0xbc, 0, 0, 0, 0, // mov r12d, count
		0xb8, 57, 0, 0, 0, 0x0f, 0x05, // next: fork
		0x85, 0xc0, // test eax, eax
		0x78, 0xf5, // js next
		0x74, 0x28, // jz middle
		0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // again: mov rdi, -1
		0x31, 0xf6, 0x31, 0xd2, 0x45, 0x31, 0xd2, // xor esi, esi; xor edx, edx; xor r10d, r10d
		0xb8, 61, 0, 0, 0, 0x0f, 0x05, // wait4
		0x83, 0xf8, 0xfc, 0x74, 0xe6, // cmp eax, -EINTR; je again
		0x41, 0xff, 0xcc, 0x75, 0xd4, // dec r12d; jnz next
		0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, // exit(0)
		0xb8, 57, 0, 0, 0, 0x0f, 0x05, // middle: fork
		0x85, 0xc0, 0x78, 0xf5, // test eax, eax; js middle
		0xbf, 3, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, // exit(3): the middle one and the orphan
	}
	le := binary.LittleEndian
	le.PutUint32(code[2:], count)
	size := uint64(headers + len(code))
	elf := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	elf = le.AppendUint16(elf, 2)  // executable
	elf = le.AppendUint16(elf, 62) // x86-64
	elf = le.AppendUint32(elf, 1)
	elf = le.AppendUint64(elf, base+headers) // entry
	elf = le.AppendUint64(elf, 64)           // program headers
	elf = le.AppendUint64(elf, 0)
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
