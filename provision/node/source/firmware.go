package source

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const firmwareDir = "sys/firmware/qemu_fw_cfg/by_name/opt/org.mesolith"

// openFirmware opens the files that QEMU hands over.
func openFirmware(_ context.Context, cfg Config) ([]medium, []Tried) {
	dir := filepath.Join(cfg.Root, firmwareDir)
	if _, err := os.Stat(dir); err != nil {
		return nil, []Tried{{"fw_cfg", "no opt/org.mesolith there (not a virtual machine of `lith up`, or its module is not loaded)"}}
	}
	return []medium{{name: "fw_cfg", read: func(file string, most int64) ([]byte, error) {
		return readFile(filepath.Join(dir, file, "raw"), most)
	}}}, nil
}

// readFile reads a file of at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, most)
}

func readBounded(r io.Reader, most int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > most {
		return nil, fmt.Errorf("longer than %d bytes", most)
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("empty: %w", fs.ErrNotExist)
	}
	return raw, nil
}
