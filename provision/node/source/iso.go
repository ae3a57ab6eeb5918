package source

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

const isoSector = 2048

// readISO gives a file of the root directory of an ISO 9660 file system.
func readISO(disk io.ReaderAt, name string, most int64) ([]byte, error) {
	volume := make([]byte, isoSector)
	if _, err := disk.ReadAt(volume, 16*isoSector); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	size := int64(le.Uint32(volume[156+10:]))
	if size > maxDirectory {
		return nil, fmt.Errorf("%w: root directory of %d bytes", errBroken, size)
	}
	dir := make([]byte, size)
	if _, err := disk.ReadAt(dir, int64(le.Uint32(volume[156+2:]))*isoSector); err != nil {
		return nil, err
	}
	for at := 0; at < len(dir); {
		length := int(dir[at])
		if length == 0 { // the rest of a sector is empty when no record fits
			at = (at/isoSector + 1) * isoSector
			continue
		}
		if length < 34 || at+length > len(dir) || 33+int(dir[at+32]) > length {
			return nil, fmt.Errorf("%w: a directory record of %d bytes", errBroken, length)
		}
		e := dir[at : at+length]
		at += length
		const directory = 0x02
		if e[25]&directory != 0 || !sameISO(string(e[33:33+int(e[32])]), name) {
			continue
		}
		if size := int64(le.Uint32(e[10:])); size > most {
			return nil, fmt.Errorf("longer than %d bytes", most)
		}
		raw := make([]byte, le.Uint32(e[10:]))
		_, err := disk.ReadAt(raw, int64(le.Uint32(e[2:]))*isoSector)
		return raw, err
	}
	return nil, fs.ErrNotExist
}

// sameISO compares a name of a directory record, such as NODE.JSON;1, which the first
// level of the standard cuts to 8.3 characters.
func sameISO(have, name string) bool {
	have, _, _ = strings.Cut(have, ";")
	base, ext, _ := strings.Cut(name, ".")
	short := base[:min(len(base), 8)] + "." + ext[:min(len(ext), 3)]
	return strings.EqualFold(have, name) || strings.EqualFold(have, short)
}
