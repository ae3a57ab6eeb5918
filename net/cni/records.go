package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// maxRecord bounds a file that is read back.
const maxRecord = 16 << 20

// store keeps settings and records as files, each replaced as a whole.
type store struct{ dir string }

func (s store) settingsPath() string        { return filepath.Join(s.dir, "settings.json") }
func (s store) recordsDir() string          { return filepath.Join(s.dir, "attachments") }
func (s store) recordPath(id string) string { return filepath.Join(s.recordsDir(), id+".json") }
func (s store) leases() string              { return filepath.Join(s.dir, "leases") }
func (s store) cache() string               { return filepath.Join(s.dir, "cache") }

func (s store) write(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// read gives false when there is no such file.
func (s store) read(path string, v any) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err == nil && info.Size() > maxRecord {
		err = fmt.Errorf("%d bytes, at most %d", info.Size(), maxRecord)
	}
	var raw []byte
	if err == nil {
		raw, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}

func (s store) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// load reads all records. Half-written files of an earlier life are removed, and so is a
// record that cannot be read: what it named, Sweep finds and takes away.
func (s store) load(log *slog.Logger) (map[string]*Record, error) {
	entries, err := os.ReadDir(s.recordsDir())
	if err != nil {
		return nil, fmt.Errorf("read attachments: %w", err)
	}
	records := map[string]*Record{}
	for _, e := range entries {
		path := filepath.Join(s.recordsDir(), e.Name())
		var r Record
		_, err := s.read(path, &r)
		if err == nil && checkID(r.ID) == nil && path == s.recordPath(r.ID) {
			records[r.ID] = &r
			continue
		}
		if !strings.HasPrefix(e.Name(), ".new-") {
			log.Warn("record of a task's network removed: it cannot be read", "file", path, "id", r.ID, "err", err)
		}
		if err := s.remove(path); err != nil {
			return nil, err
		}
	}
	return records, nil
}
