//go:build !linux

package replica

// dropCached does nothing: nodes run Linux.
func dropCached(string) error { return nil }
