package run

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// restAfter is how long after the last launch or end the memory that these took is given
// back to the machine: Go keeps it otherwise until the next of its collections, which a
// keeper with nothing to do puts off for minutes.
const restAfter = 5 * time.Second

// busy tells that something was launched or has ended.
func (k *Keeper) busy() {
	select {
	case k.work <- struct{}{}:
	default:
	}
}

// giveBack returns all memory that is not in use. Each collection halves the stacks that
// launches have made large and that waiting needs little of.
func giveBack() {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
}

// rest gives memory back each time that there was work and then none for a while.
func rest(ctx context.Context, work <-chan struct{}, give func()) {
	quiet := time.NewTimer(restAfter)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-work:
			quiet.Reset(restAfter)
		case <-quiet.C:
			give()
		}
	}
}
