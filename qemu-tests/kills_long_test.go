//go:build vm && long

package qemutests

// How often programs are killed, under how many tasks.
const kills, killTasks = 100, 100
