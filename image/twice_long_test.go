//go:build long

package image

// coldCache: the second build compiles everything anew.
const coldCache = true
