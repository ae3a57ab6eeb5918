//go:build vm && long

package qemutests

// orphansOfAStorm is the number of orphans of a long run.
const orphansOfAStorm = 50_000
