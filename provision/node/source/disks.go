package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat12"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// Label is the volume label of a medium that carries a node's documents.
const Label = "MESOLITH"

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
	if kind := probeFAT(head); kind != "" {
		return kind, nil
	}
	volume := make([]byte, 72)
	if _, err := f.ReadAt(volume, 16*2048); err != nil {
		return "", err
	}
	if string(volume[1:6]) == "CD001" && label(volume[40:72]) == Label {
		return "iso9660", nil
	}
	return "", nil
}

func probeFAT(head []byte) string {
	if head[510] != 0x55 || head[511] != 0xaa {
		return ""
	}
	switch {
	case bytes.HasPrefix(head[82:], []byte("FAT32")) && label(head[71:82]) == Label:
		return "fat32"
	case bytes.HasPrefix(head[54:], []byte("FAT16")) && label(head[43:54]) == Label:
		return "fat16"
	case bytes.HasPrefix(head[54:], []byte("FAT12")) && label(head[43:54]) == Label:
		return "fat12"
	}
	return ""
}

func label(raw []byte) string { return strings.TrimRight(string(raw), " \x00") }

// fileReader is what the file systems have in common for us.
type fileReader interface {
	Open(name string) (fs.File, error)
}

// readFromDisk opens the device anew for each file, so that a stick may be pulled out.
// The reader is somebody else's code on somebody else's bytes: its panic is an error.
func readFromDisk(path, kind, name string, most int64) (raw []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			raw, err = nil, fmt.Errorf("broken %s file system: %v", kind, r)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	volume, err := openVolume(f, kind, size)
	if err != nil {
		return nil, fmt.Errorf("read %s file system: %w", kind, err)
	}
	// Upper case is what a FAT without long names and a plain ISO keep.
	for _, as := range []string{name, strings.ToUpper(name)} {
		in, err := volume.Open(as)
		if err != nil {
			continue
		}
		defer in.Close()
		return readBounded(in, most)
	}
	return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func openVolume(f *os.File, kind string, size int64) (fileReader, error) {
	disk := file.New(f, true)
	switch kind {
	case "fat32":
		return fat32.Read(disk, size, 0, 512)
	case "fat16":
		return fat16.Read(disk, size, 0, 512)
	case "fat12":
		return fat12.Read(disk, size, 0, 512)
	case "iso9660":
		return iso9660.Read(disk, size, 0, 2048)
	}
	return nil, errors.New("unknown kind")
}
