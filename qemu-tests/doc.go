// Package qemutests holds the tests that boot virtual machines, written as prose: what
// happens, and what must hold then. They run with `go test -tags vm ./qemu-tests/...`
// after `make image`.
//
// Most tests share one cluster of three machines, which is brought back to where tests
// begin (no faults, every machine on and ready) before each of them. Those that need
// machines of their own come after these, side by side. At most four machines run at
// once. Deadlines are multiples of a boot that is measured first, so that a slow host is
// only slow. Consoles of failed tests are kept under build/qemu-tests.
//
// How machines are run is in vm, lan and cluster.
package qemutests
