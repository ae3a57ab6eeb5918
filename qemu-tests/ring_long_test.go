//go:build vm && long

package qemutests

import "time"

// How often programs are killed, under how many tasks.
const kills, killTasks = 100, 100

// How many tasks have two points of isolated in their ids, any two.
const pairs = 60

// At how many points programs die while one task lives.
const deathsOfATask = 1

// Which kinds of task look around inside: all.
var insideKinds []string

// Whether a node's image store is filled as well when its memory is short.
const fillsStore = true

// How long a machine is without its cable, after it has said so.
const withoutCable = 10 * time.Minute
