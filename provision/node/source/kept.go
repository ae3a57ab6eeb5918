package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// fromFile names the source that a kept document came from; it is written last.
const fromFile = "from"

// Keep stores what was found below a directory of this machine's memory, for a noded that
// starts again: the stick may be pulled out by then, the server be off, and a card must
// not change its address to ask for what is known.
func (f Found) Keep(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep node document: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, fromFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keep node document: %w", err)
	}
	anchor, err := f.Anchor.Encode()
	if err != nil {
		return fmt.Errorf("keep node document: %w", err)
	}
	var issuer []byte
	if f.Issuer != nil {
		if issuer, err = f.Issuer.Encode(); err != nil {
			return fmt.Errorf("keep node document: %w", err)
		}
	}
	for _, file := range []struct {
		name string
		data []byte
	}{
		{anchorFile, anchor}, {nodeFile, f.Node}, {keyFile, f.BootKey}, {clusterFile, f.Cluster}, {issuerFile, issuer}, {fromFile, []byte(f.Source)},
	} {
		path := filepath.Join(dir, file.name)
		if err := os.WriteFile(path+".new", file.data, 0o600); err != nil {
			return fmt.Errorf("keep node document: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("keep node document: %w", err)
		}
	}
	return nil
}

// Kept gives what an earlier start of noded found in this boot, verified again; it is
// fs.ErrNotExist when there is nothing.
func Kept(cfg Config, dir string) (Found, error) {
	const maxFrom = 4096
	from, err := readFile(filepath.Join(dir, fromFile), maxFrom)
	if err != nil {
		return Found{}, err
	}
	m := medium{name: string(from), read: func(file string, most int64) ([]byte, error) {
		return readFile(filepath.Join(dir, file), most) // an empty file is none
	}}
	f, err := m.load(cfg)
	if err != nil {
		return Found{}, fmt.Errorf("kept node document: %w", err)
	}
	return f, nil
}
