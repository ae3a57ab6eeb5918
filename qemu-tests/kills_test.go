//go:build vm && !long

package qemutests

// How often programs are killed, under how many tasks.
const kills, killTasks = 10, 20

// How many tasks have two points of isolated in their ids, any two.
const pairs = 0

// At how many points programs die while one task lives.
const deathsOfATask = 4
