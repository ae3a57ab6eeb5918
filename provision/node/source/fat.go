package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// Bounds of what is read of a foreign file system.
const (
	maxDirectory = 1 << 20 // bytes of the root directory
	maxChain     = 1 << 16 // clusters of one file
)

var errBroken = errors.New("the file system is broken")

// fat reads the root directory of a FAT file system. It follows no chain further than
// the bytes that were asked for, so that a chain that bites its tail ends too.
type fat struct {
	disk                    io.ReaderAt
	bits                    int // 12, 16, 32
	cluster                 int64
	tableAt, rootAt, dataAt int64 // bytes
	rootBytes               int64 // of FAT12 and FAT16
	rootCluster, clusters   uint32
}

func openFAT(disk io.ReaderAt) (*fat, error) {
	b := make([]byte, 512)
	if _, err := disk.ReadAt(b, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 || perCluster == 0 || b[16] == 0 || b[16] > 4 {
		return nil, fmt.Errorf("%w: sectors of %d bytes, clusters of %d sectors", errBroken, sector, perCluster)
	}
	total, tableSectors := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	f := &fat{disk: disk, cluster: sector * perCluster, rootBytes: int64(le.Uint16(b[17:])) * 32}
	if tableSectors == 0 {
		f.bits, tableSectors, f.rootCluster, f.rootBytes = 32, int64(le.Uint32(b[36:])), le.Uint32(b[44:]), 0
	}
	f.tableAt = int64(le.Uint16(b[14:])) * sector
	f.rootAt = f.tableAt + int64(b[16])*tableSectors*sector
	f.dataAt = f.rootAt + (f.rootBytes+sector-1)/sector*sector
	count := (total*sector - f.dataAt) / f.cluster
	if count < 1 || count > 1<<28 {
		return nil, fmt.Errorf("%w: %d clusters", errBroken, count)
	}
	f.clusters = uint32(count)
	if f.bits == 0 {
		f.bits = 16
		if count < 4085 {
			f.bits = 12
		}
	}
	return f, nil
}

// read gives a file of the root directory, of at most so many bytes.
func (f *fat) read(name string, most int64) ([]byte, error) {
	dir, err := f.root()
	if err != nil {
		return nil, err
	}
	first, size, err := findFAT(dir, name)
	if err != nil {
		return nil, err
	}
	if int64(size) > most {
		return nil, fmt.Errorf("longer than %d bytes", most)
	}
	raw, err := f.chain(first, int64(size))
	if err == nil && int64(len(raw)) < int64(size) {
		err = fmt.Errorf("%w: %s ends early", errBroken, name)
	}
	return raw, err
}

func (f *fat) root() ([]byte, error) {
	if f.bits == 32 {
		return f.chain(f.rootCluster, maxDirectory)
	}
	raw := make([]byte, f.rootBytes)
	_, err := f.disk.ReadAt(raw, f.rootAt)
	return raw, err
}

// chain reads at most so many bytes of the clusters that begin with one.
func (f *fat) chain(at uint32, most int64) ([]byte, error) {
	var out []byte
	for range maxChain {
		if at < 2 || at-2 >= f.clusters || int64(len(out)) >= most {
			break
		}
		part := make([]byte, min(f.cluster, most-int64(len(out))))
		if _, err := f.disk.ReadAt(part, f.dataAt+int64(at-2)*f.cluster); err != nil {
			return nil, err
		}
		out = append(out, part...)
		var err error
		if at, err = f.next(at); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// next looks a cluster's successor up; a number that is no cluster ends the chain.
func (f *fat) next(at uint32) (uint32, error) {
	b := make([]byte, 4)
	offset := int64(at) * int64(f.bits) / 8
	if _, err := f.disk.ReadAt(b, f.tableAt+offset); err != nil {
		return 0, err
	}
	v := binary.LittleEndian.Uint32(b)
	switch f.bits {
	case 12:
		return v >> (4 * (at & 1)) & 0xfff, nil
	case 16:
		return v & 0xffff, nil
	}
	return v & 0x0fffffff, nil
}

// findFAT looks for a file by its long name, or by its short one.
func findFAT(dir []byte, name string) (first, size uint32, err error) {
	var long []uint16
	for ; len(dir) >= 32 && dir[0] != 0; dir = dir[32:] {
		e := dir[:32]
		const longName, volume, directory = 0x0f, 0x08, 0x10
		if e[11] == longName && e[0] != 0xe5 {
			long = append(longPart(e), long...)
			if len(long) > 260 {
				long = nil
			}
			continue
		}
		have := string(utf16.Decode(long))
		long = nil
		if e[0] == 0xe5 || e[11]&(volume|directory) != 0 {
			continue
		}
		short := strings.TrimRight(string(e[:8]), " ") + "." + strings.TrimRight(string(e[8:11]), " ")
		if strings.EqualFold(have, name) || strings.EqualFold(short, name) {
			le := binary.LittleEndian
			return uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:])), le.Uint32(e[28:]), nil
		}
	}
	return 0, 0, fs.ErrNotExist
}

// volumeName gives the root directory's own label, "" for none.
func volumeName(dir []byte) string {
	for ; len(dir) >= 32 && dir[0] != 0; dir = dir[32:] {
		const longName, volume = 0x0f, 0x08
		if dir[0] != 0xe5 && dir[11] != longName && dir[11]&volume != 0 {
			return label(dir[:11])
		}
	}
	return ""
}

func longPart(e []byte) []uint16 {
	var out []uint16
	for _, r := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := r[0]; i < r[1]; i += 2 {
			c := binary.LittleEndian.Uint16(e[i:])
			if c == 0 || c == 0xffff {
				return out
			}
			out = append(out, c)
		}
	}
	return out
}
