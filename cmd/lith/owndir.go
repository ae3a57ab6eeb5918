package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// lockFile is held for as long as a cluster runs in a directory: by `lith up` while it
// prepares, by the supervisor afterwards.
const lockFile = "lock"

// ourFiles are all that a cluster's directory may hold that is ours to overwrite and to
// remove.
var ourFiles = []string{
	planFile, stateFile, supervisorFile, supervisorLog, supervisorSock, operatorCert, operatorKey, anchorFile,
	generatedFile, secretsFile, "nodes", "examples", lockFile,
}

// errBusy says that a cluster is being started in a directory, or runs there.
var errBusy = errors.New("somebody else has this directory")

// claimDir makes a cluster's directory, for its user alone, and holds it. A directory with
// anything in it that `lith up` has not made is refused: files in it would be overwritten,
// and removed by `lith down`.
func claimDir(ctx context.Context, dir string) (*os.File, error) {
	if err := checkOurs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return awaitLock(ctx, dir, letGo)
}

func checkOurs(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, planFile)); err == nil {
		return nil // an earlier cluster's
	}
	for _, e := range entries {
		if e.Name() != lockFile {
			return fmt.Errorf("%s holds %s, which no `lith up` has made: name a new or empty directory with --cluster", dir, e.Name())
		}
	}
	return nil
}

// letGo is how long a supervisor that has died may take to let its directory go.
const letGo = 2 * time.Second

// awaitLock holds a directory as soon as it is free: a process that ends cannot be seen
// any more a little before its files are closed.
func awaitLock(ctx context.Context, dir string, limit time.Duration) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := lockDir(dir)
		if !errors.Is(err, errBusy) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// lockDir holds a directory until the file is closed in every process that has it open.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = errBusy
	case err == nil:
		err = stillThere(f, path)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cluster in %s: %w", dir, err)
	}
	return f, nil
}

// stillThere refuses a lock on a file that `lith down` has removed meanwhile.
func stillThere(f *os.File, path string) error {
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Stat(path); err != nil || !os.SameFile(ours, now) {
		return errBusy
	}
	return nil
}

// busy reports whether somebody holds a directory.
func busy(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// removeOurs removes what is ours of a directory, and the directory when that was all.
func removeOurs(dir string) (left []string, err error) {
	for _, name := range slices.DeleteFunc(slices.Clone(ourFiles), func(n string) bool { return n == lockFile }) {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	err = errors.Join(err, os.RemoveAll(filepath.Join(dir, lockFile))) // the last one: others look at it
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if len(left) > 0 {
		return left, nil
	}
	return nil, os.Remove(dir)
}

// atDir is what a person adds to a command to mean a directory; nothing where it is the
// one that commands look into anyway.
func atDir(dir string) string {
	if usual, err := clusterDirFlag(""); err == nil && usual == dir {
		return ""
	}
	return " --cluster " + dir
}
