//go:build vm && !long

package qemutests

// orphansOfAStorm is the number of orphans of a quick run.
const orphansOfAStorm = 2000
