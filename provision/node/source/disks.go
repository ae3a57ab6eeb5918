package source

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Label is the volume label of a medium that carries a node's documents.
const Label = "MESOLITH"

// Kinds of file systems that a medium may have.
const (
	kindFAT = "FAT"
	kindISO = "ISO 9660"
)

const maxDisks = 256 // block devices that are looked at

// openDisks finds the block devices with a FAT or ISO 9660 file system of our label.
func openDisks(_ context.Context, cfg Config) ([]medium, []Tried) {
	entries, err := os.ReadDir(filepath.Join(cfg.Root, "sys/class/block"))
	if err != nil {
		return nil, []Tried{{"medium " + Label, "this machine shows no block devices"}}
	}
	var media []medium
	looked := 0
	for _, e := range entries[:min(len(entries), maxDisks)] {
		if virtual(e.Name()) {
			continue
		}
		looked++
		path := filepath.Join(cfg.Root, "dev", e.Name())
		kind, err := probe(path)
		if err != nil || kind == "" {
			continue // empty drives and foreign disks are no news
		}
		media = append(media, medium{name: "medium " + Label + " on " + e.Name(), read: func(name string, most int64) ([]byte, error) {
			return readFromDisk(path, kind, name, most)
		}})
	}
	if len(media) == 0 {
		return nil, []Tried{{"medium " + Label, fmt.Sprintf("none of %d block devices has a FAT or ISO file system with this label", looked)}}
	}
	return media, nil
}

func virtual(name string) bool {
	for _, prefix := range []string{"loop", "ram", "dm-", "md", "zram", "nbd"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// probe tells which file system with our label a device holds; "" for none.
func probe(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 512)
	if _, err := io.ReadFull(f, head); err != nil {
		return "", err
	}
	if kind, have := fatLabel(head); kind {
		if have == Label || labelInRoot(f) {
			return kindFAT, nil
		}
		return "", nil
	}
	volume := make([]byte, 72)
	if _, err := f.ReadAt(volume, 16*2048); err != nil {
		return "", err
	}
	if string(volume[1:6]) == "CD001" && label(volume[40:72]) == Label {
		return kindISO, nil
	}
	return "", nil
}

// fatLabel tells whether a device begins as a FAT file system does, and its label there.
func fatLabel(head []byte) (fat bool, have string) {
	if head[510] != 0x55 || head[511] != 0xaa {
		return false, ""
	}
	// The label's place depends on the kind: after the FAT32 fields, or where those begin.
	if bytes.HasPrefix(head[82:], []byte("FAT32")) {
		return true, label(head[71:82])
	}
	return bytes.HasPrefix(head[54:], []byte("FAT1")), label(head[43:54])
}

// labelInRoot finds the label where Windows writes it: an entry of the root directory.
func labelInRoot(disk io.ReaderAt) bool {
	volume, err := openFAT(disk)
	if err != nil {
		return false
	}
	dir, err := volume.root()
	return err == nil && volumeName(dir) == Label
}

func label(raw []byte) string { return strings.TrimRight(string(raw), " \x00") }

// readFromDisk opens the device anew for each file, so that a stick may be pulled out.
func readFromDisk(path, kind, name string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if kind == kindISO {
		return readISO(f, name, most)
	}
	volume, err := openFAT(f)
	if err != nil {
		return nil, err
	}
	return volume.read(name, most)
}
