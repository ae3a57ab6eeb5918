//go:build vm && !long

package image

// coldCache: the second build may reuse what the first compiled.
const coldCache = false

// cachedThere: the packages are unpacked already.
const cachedThere = "cache"
