package control

import (
	"fmt"
	"sync"

	"github.com/mesolith/mesolith/init/reap"
	"golang.org/x/sys/unix"
)

// maxHeld bounds the processes whose pipes are held: two descriptors each, well below
// what PID 1 may have open. Those beyond it lose only what they wrote and isolated had
// not read at the moment that both were gone.
const maxHeld = 1500

// pipes keeps the output pipes of registered processes open, and never reads them. A
// pipe that nobody has open forgets its bytes; a process that ends while isolated is down
// would take its last words with it.
type pipes struct {
	mu   sync.Mutex
	held map[reap.Key][]int
}

// hold opens what the process has as standard output and error, where they are named
// pipes. It is called while the process is still libcontainer's, before it became
// somebody's program.
func (p *pipes) hold(k reap.Key, pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = map[reap.Key][]int{}
	}
	if _, twice := p.held[k]; twice || len(p.held) >= maxHeld {
		return
	}
	var fds []int
	for n := 1; n <= 2; n++ {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/fd/%d", pid, n), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // it has none, or is gone already
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			unix.Close(fd)
			continue
		}
		fds = append(fds, fd)
	}
	p.held[k] = fds
}

// release lets go: the status is stored, so the output has been read.
func (p *pipes) release(k reap.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range p.held[k] {
		unix.Close(fd)
	}
	delete(p.held, k)
}
