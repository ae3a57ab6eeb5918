//go:build vm && long

package qemutests

// orphansOfAStorm is the number of orphans of a long run.
const orphansOfAStorm = 50_000

// mainToo has the main loop hang as well, not the supervisor only.
const mainToo = true
