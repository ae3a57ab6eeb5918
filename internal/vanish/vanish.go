// Package vanish ends connections whose other end has vanished without a word: a machine
// that lost power, a cable that was pulled. The kernel would send again what nobody
// acknowledges for a quarter of an hour, and keepalive probes are not sent meanwhile.
//
// It ends connections with something on its way only, or with keepalive; both ends of
// ours always have one of these. Ends that are alive and read slowly are their writer's
// business.
package vanish

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// After makes a TCP connection fail once what was sent is not acknowledged for so long.
// Other connections are left as they are.
func After(conn net.Conn, limit time.Duration) error {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	if _, ok := conn.(*net.TCPConn); !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("limit silence of connection: %w", err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("limit silence of connection: %w", err)
	}
	return nil
}
