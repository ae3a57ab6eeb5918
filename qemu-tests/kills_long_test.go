//go:build vm && long

package qemutests

// How often programs are killed, under how many tasks.
const kills, killTasks = 100, 100

// How many tasks have two points of isolated in their ids, any two.
const pairs = 60

// At how many points programs die while one task lives.
const deathsOfATask = 1
