package main

// The constructor in this package's C part makes the namespaces before Go's runtime
// starts; without it libcontainer cannot start anything.
import _ "github.com/opencontainers/runc/libcontainer/nsenter"
