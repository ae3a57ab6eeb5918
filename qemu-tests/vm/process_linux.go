package vm

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Identify says which process has a number now. A zombie has ended.
func Identify(pid int) (Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	// The name in parentheses may hold anything; fields are counted from behind it.
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	const state, startTime = 0, 19 // fields 3 and 22 of proc(5)
	if end < 0 || len(fields) <= startTime || fields[state] == "Z" || fields[state] == "X" {
		return Process{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	program, err := os.Readlink(dir + "/exe")
	if err != nil {
		return Process{}, fmt.Errorf("program of process %d: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return Process{
		PID:     pid,
		Start:   strings.TrimSpace(string(boot)) + "/" + fields[startTime],
		Program: strings.TrimSuffix(program, " (deleted)"),
	}, nil
}
