package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	incarnationFile  = "incarnation"
	incarnationBytes = 16
	mountLook        = 20 * time.Millisecond
)

// incarnation gives this incarnation's id. It is stored on the state file system, so
// that it ends with what that holds: in RAM mode with the kernel, in disk mode with the
// partition. Until PID 1 has mounted it nothing is stored, because an id in the root
// file system would outlive nothing and name a memory that is not there.
func (n *machine) incarnation(ctx context.Context) (string, error) {
	for !n.cfg.StateMounted() {
		if err := sleep(ctx, mountLook); err != nil {
			return "", err
		}
	}
	path := filepath.Join(n.cfg.StateDir, incarnationFile)
	raw, err := os.ReadFile(path)
	if err == nil {
		id := strings.TrimSpace(string(raw))
		if b, err := hex.DecodeString(id); err != nil || len(b) != incarnationBytes {
			return "", fmt.Errorf("%s holds %.80q, not %d hexadecimal digits", path, id, 2*incarnationBytes)
		}
		return id, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read incarnation: %w", err)
	}
	fresh := make([]byte, incarnationBytes)
	if _, err := rand.Read(fresh); err != nil {
		return "", fmt.Errorf("make incarnation: %w", err)
	}
	id := hex.EncodeToString(fresh)
	return id, storeWhole(path, []byte(id+"\n"))
}

// storeWhole writes a file by renaming a finished one over it, on disk before it counts.
func storeWhole(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
