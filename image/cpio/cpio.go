// Package cpio writes the "newc" archives that the Linux kernel unpacks as
// its first root file system.
//
// The same entries always give the same bytes: entries are sorted by name,
// every owner is root, every time is zero and inode numbers count from one.
// Directories that entries need but that were not added are made, mode 0755.
// Nothing is read from a disk here and nothing is packed; package image does
// both.
package cpio

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// File types as in stat(2).
const (
	typeRegular   = 0o100000
	typeDirectory = 0o040000
	typeSymlink   = 0o120000
	typeCharacter = 0o020000
)

// Archive collects entries by their path relative to the root.
type Archive struct {
	entries map[string]entry
}

type entry struct {
	mode         uint32
	body         []byte
	major, minor uint32
}

// New returns an empty archive.
func New() *Archive { return &Archive{entries: map[string]entry{}} }

// File adds a regular file. Adding a path twice replaces the earlier entry.
func (a *Archive) File(name string, permissions uint32, body []byte) {
	a.add(name, entry{mode: typeRegular | permissions&0o7777, body: body})
}

// Dir adds a directory.
func (a *Archive) Dir(name string, permissions uint32) {
	a.add(name, entry{mode: typeDirectory | permissions&0o7777})
}

// Link adds a symbolic link that points at target.
func (a *Archive) Link(name, target string) {
	a.add(name, entry{mode: typeSymlink | 0o777, body: []byte(target)})
}

// Device adds a character device.
func (a *Archive) Device(name string, permissions, major, minor uint32) {
	a.add(name, entry{mode: typeCharacter | permissions&0o7777, major: major, minor: minor})
}

func (a *Archive) add(name string, e entry) {
	a.entries[strings.TrimPrefix(path.Clean("/"+name), "/")] = e
}

// Files ranges over path and body of every regular file, sorted by path.
func (a *Archive) Files(yield func(name string, body []byte) bool) {
	for _, name := range slices.Sorted(maps.Keys(a.entries)) {
		e := a.entries[name]
		if e.mode&0o170000 == typeRegular && !yield(name, e.body) {
			return
		}
	}
}

// WriteTo writes the archive with its trailer.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	a.addParents()
	var written int64
	for i, name := range slices.Sorted(maps.Keys(a.entries)) {
		n, err := w.Write(record(name, a.entries[name], i+1))
		written += int64(n)
		if err != nil {
			return written, fmt.Errorf("write entry %s: %w", name, err)
		}
	}
	trailer := record("TRAILER!!!", entry{}, 0)
	n, err := w.Write(trailer)
	return written + int64(n), err
}

// addParents makes the directories above each entry; sorting then puts every
// directory before what is in it, which the kernel demands.
func (a *Archive) addParents() {
	for _, name := range slices.Collect(maps.Keys(a.entries)) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := a.entries[dir]; !ok {
				a.entries[dir] = entry{mode: typeDirectory | 0o755}
			}
		}
	}
}

// record is one entry: header of 110 hexadecimal characters, name with its
// zero, body; name and body each padded to four bytes.
func record(name string, e entry, inode int) []byte {
	links := 1
	if e.mode&0o170000 == typeDirectory {
		links = 2
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		inode, e.mode, 0, 0, links, 0, len(e.body), 0, 0, e.major, e.minor, len(name)+1, 0)
	b.WriteString(name)
	b.WriteByte(0)
	pad(&b)
	b.Write(e.body)
	pad(&b)
	return b.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
