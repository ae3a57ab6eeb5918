package link

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// attempts is how often a list is read that changes while it is read.
const attempts = 10

// Whole reads a list from the kernel until nothing of it changed meanwhile: what netlink
// gives otherwise may have gaps, and it says so by netlink.ErrDumpInterrupted. On a node
// where many tasks come and go lists change all the time.
func Whole[T any](read func() ([]T, error)) (list []T, err error) {
	for range attempts {
		if list, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return nil, err
}
