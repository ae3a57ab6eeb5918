//go:build !pid1faults

// Package fault is where PID 1 can be made to fail. In the shipped program all of it is
// nothing; built with the tag "pid1faults" it does what the kernel's argument mesolith.fault
// names and, with the word "listen" there, what the host writes to the control port: a
// point that hangs or panics, descriptors that run out, a storm of orphans, a clock that
// is moved, a program that is killed.
//
// It decides nothing of its own accord; the VM tests put such an init in the image's place.
package fault

import "github.com/mesolith/mesolith/init/phase"

// Phases makes each phase of the boot a point, named phase-NAME.
func Phases(list []phase.Phase) []phase.Phase { return list }

// At is a point that can be made to hang or to panic.
func At(string) {}

// Serve obeys the host.
func Serve(Tools) {}
