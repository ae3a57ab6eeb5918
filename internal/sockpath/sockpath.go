// Package sockpath listens on and dials Unix sockets whose path may be longer than the
// 107 bytes that the kernel's address takes.
//
// A long path is reached through a descriptor of its directory, which Linux offers as
// /proc/self/fd/N; elsewhere a long path is an error that says so. Invariant: the socket
// is at the path that was asked for, whatever its length.
//
// It keeps no socket alive and removes none but a stale one in its own way.
package sockpath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// longest is what fits in sockaddr_un, less its final zero.
const longest = 107

// Listen listens at path, after removing a socket that nobody listens on any more.
func Listen(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	short, release, err := shorten(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	ln, err := net.Listen("unix", short)
	if err != nil {
		release()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &listener{Listener: ln, release: release}, nil
}

// ErrInUse says that somebody listens on the socket already.
var ErrInUse = errors.New("somebody listens there already")

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return errors.New("there is something else than a socket")
	}
	if conn, err := Dial(context.Background(), path); err == nil {
		conn.Close()
		return ErrInUse
	}
	return os.Remove(path)
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	short, release, err := shorten(path)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	defer release()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", short)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	return conn, nil
}

// listener keeps the directory open until the socket's name has been removed.
type listener struct {
	net.Listener
	release func()
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	l.release()
	return err
}

func shorten(path string) (short string, release func(), err error) {
	if len(path) <= longest {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	short = "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path)
	if _, err := os.Stat(filepath.Dir(short)); err != nil || len(short) > longest {
		dir.Close()
		return "", nil, fmt.Errorf("the path has %d bytes, a socket's has at most %d here: use a shorter directory", len(path), longest)
	}
	return short, func() { dir.Close() }, nil
}
