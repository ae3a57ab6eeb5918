// Package sim lets a whole cluster live on virtual time: real masters (masters, replica
// with its Raft, state, leader, calls over HTTP) and frameworks that use the real client,
// on a network and on disks that do what the test's seed says. All of it is tests and
// benchmarks; nothing here is linked into a program.
//
// The network (net_test.go) carries each direction of each connection by itself: delays
// that overtake one another between connections, cuts per direction, silence or a reset
// when a machine dies. The disk (disk_test.go) keeps what a power cut does to writes that
// were not flushed: lost, torn by sectors, or there all the same. A node can die before
// and after each of replica.Points, stall in one, get EIO in one, be frozen (nothing goes
// in, out, or to its disk) and have its wall clock moved by hours.
//
// Invariants checked after each life (check_test.go): every entry that Raft acknowledged
// is in the one history that all replicas applied; all states have one hash; one leader a
// term; the histories of calls are linearizable (porcupine); no framework, agent or task
// was removed that nobody ended.
//
// What is not real: agents (they are played, agent_test.go), TLS, the CPU: a frozen node
// still computes, so that what a stopped process would do on waking is not seen here.
//
// -sim.seed replays one life's faults; the goroutines' order is the scheduler's own.
package sim
