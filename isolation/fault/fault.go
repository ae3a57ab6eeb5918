//go:build !faults

// Package fault names the points of a container's life after which a crash is tried.
// In a shipped program a point is nothing; built with the tag "faults" the program kills
// itself at the point that MESOLITH_FAULT names, once. It makes no decision and holds
// no state; the tests that read what is left do.
package fault

// Point is a place between two effects.
type Point string

// After marks that the effect named by p has just happened.
func After(Point) {}
