//go:build vm && !long

package qemutests

// How often programs are killed, under how many tasks.
const kills, killTasks = 6, 12

// How many tasks have two points of isolated in their ids, any two.
const pairs = 0

// At how many points programs die while one task lives.
const deathsOfATask = 5

// Which kinds of task look around inside; the whole table has eight.
var insideKinds = []string{"root", "user, no image, node's network"}

// Whether a node's image store is filled as well when its memory is short.
const fillsStore = false

// How long a machine is without its cable, after it has said so.
const withoutCable = 0
