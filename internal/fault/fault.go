//go:build !faults

// Package fault names the points of a container's life after which a crash is tried, in
// isolated and in clusterd.
// In a shipped program a point is nothing; built with the tag "faults" the program kills
// itself at the points that the task's id names, once at each. It makes no decision and
// holds no state; the tests that read what is left do.
package fault

// Point is a place between two effects.
type Point string

// MarkIn names the directory that remembers which points have struck.
func MarkIn(string) {}

// Of tells whose container it is: the task's id names the points.
func Of(container, task string) {}

// After marks that the effect named by p has just happened to a container.
func After(p Point, container string) {}
