//go:build long

package image

// coldCache: the second build compiles everything anew.
const coldCache = true

// cachedThere: the packages are unpacked anew.
const cachedThere = "cache/debs"
