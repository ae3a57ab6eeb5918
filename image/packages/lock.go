package packages

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Lock pins what goes into the image beside our own sources: the packages by
// version and checksum, and the C tool chain whose bytes end up in isolated.
type Lock struct {
	Format    int               `json:"format"`
	Kernel    Kernel            `json:"kernel"`
	Base      []Pin             `json:"base"`
	Toolchain map[string]string `json:"toolchain"` // name of tool or package → version
}

// Kernel is a pinned kernel package and the series it may be replaced from.
type Kernel struct {
	Series string `json:"series"` // "6.12"
	Pin
}

// Pin names one package file exactly.
type Pin struct {
	Package string `json:"package"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	Licence string `json:"licence"` // an SPDX expression
}

const lockFormat = 1

// ReadLock reads and checks a lock file.
func ReadLock(file string) (Lock, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return Lock{}, fmt.Errorf("read lock file: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var l Lock
	if err := d.Decode(&l); err != nil {
		return Lock{}, fmt.Errorf("read lock file %s: %w", file, err)
	}
	if err := l.check(); err != nil {
		return Lock{}, fmt.Errorf("lock file %s: %w", file, err)
	}
	return l, nil
}

func (l Lock) check() error {
	if l.Format != lockFormat {
		return fmt.Errorf("format %d, this program knows %d", l.Format, lockFormat)
	}
	if l.Kernel.Series == "" {
		return errors.New("kernel.series is missing")
	}
	for _, p := range append([]Pin{l.Kernel.Pin}, l.Base...) {
		sum, err := hex.DecodeString(p.SHA256)
		if p.Package == "" || p.Version == "" || p.Licence == "" || err != nil || len(sum) != 32 {
			return fmt.Errorf("package %q needs version, licence and a sha256 of 64 hexadecimal digits", p.Package)
		}
	}
	return nil
}
