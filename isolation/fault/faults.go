//go:build faults

package fault

import (
	"os"
	"syscall"
)

// Point is a place between two effects.
type Point string

// After ends this program by SIGKILL if p is the point that MESOLITH_FAULT names and
// the file MESOLITH_FAULT_ONCE does not exist yet.
func After(p Point) {
	if os.Getenv("MESOLITH_FAULT") != string(p) {
		return
	}
	f, err := os.OpenFile(os.Getenv("MESOLITH_FAULT_ONCE"), os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return
	}
	f.Close()
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
