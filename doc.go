// Package mesolith is the root of the module and holds nothing but tidy_test.go, by
// which the house checks itself: who imports whom, which rooms are pure, how long files
// are. The programs live in cmd/lith, init, clusterd and isolation; docs/ARCHITECTURE.md
// walks through them.
package mesolith
