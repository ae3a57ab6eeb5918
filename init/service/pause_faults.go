//go:build faults

package service

import "time"

// LongestWait is short where tests kill programs by the dozen.
const LongestWait = 200 * time.Millisecond
