//go:build !linux

package vm

import (
	"os/exec"
	"syscall"
)

// endWithParent has no help from the kernel here; the child at least leaves the terminal's
// process group, so that an interrupt reaches the supervisor first.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
