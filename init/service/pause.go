//go:build !faults

package service

import "time"

// LongestWait is where the pause stops growing.
const LongestWait = 10 * time.Second
