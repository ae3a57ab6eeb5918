package supervise

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ring keeps the newest output of a program in two files: PATH and, older, PATH.old,
// each at most half of max.
type ring struct {
	path string
	half int64
	file *os.File
	size int64
}

func newRing(path string, max int64) (*ring, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	return &ring{path: path, half: max / 2, file: file, size: size}, nil
}

func (r *ring) Write(line []byte) (int, error) {
	if r.size > 0 && r.size+int64(len(line)) > r.half {
		// It is gone already when the last turn found no room for a new file.
		if err := os.Rename(r.path, r.path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("turn log: %w", err)
		}
		next, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o640)
		if err != nil {
			return 0, fmt.Errorf("turn log: %w", err)
		}
		r.file.Close()
		r.file, r.size = next, 0
	}
	n, err := r.file.Write(line)
	r.size += int64(n)
	return n, err
}
