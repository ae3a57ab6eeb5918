//go:build !linux

package vm

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// Identify says which process has a number now.
func Identify(pid int) (Process, error) {
	read := func(field string) (string, error) {
		out, err := exec.Command("ps", "-o", field+"=", "-p", strconv.Itoa(pid)).Output()
		text := strings.TrimSpace(string(out))
		if err != nil || text == "" {
			return "", fmt.Errorf("process %d: %w", pid, ErrGone)
		}
		return text, nil
	}
	start, err := read("lstart")
	if err != nil {
		return Process{}, err
	}
	program, err := read("comm")
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: start, Program: program}, nil
}
