// Package fetchplan is what the keeper of containers tells the program that fetches a task's
// files: which URIs, under which names, and how much of all that the sandbox may take. The
// keeper (isolation/run) writes a plan to the fetcher's standard input (`clusterd pull
// --fetch`, isolation/images); a directory and the files that are there already come as
// descriptors, so that the fetcher needs to find no path of the node's.
//
// The plan is one JSON document of at most MaxPlan bytes. What is in it is checked by who
// makes it (isolation/spec); the fetcher trusts the names no more than those of an archive.
package fetchplan

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
)

// Descriptors that the fetcher is started with.
const (
	// Into is the directory that everything is put into.
	Into = 3
	// FirstHave is that of the first item which Have says so of; the others follow in their
	// order.
	FirstHave = 4
)

// Exit statuses of the fetcher beside 0 and 1.
const (
	// TooMuch: the files do not fit into what the plan allows.
	TooMuch = 3
)

// MaxPlan bounds a plan as it is read, in bytes.
const MaxPlan = 4 << 20

// Kind is how a file is unpacked.
type Kind string

// Kinds of files, by the ends of their names.
const (
	Plain    Kind = ""
	Tar      Kind = "tar"
	TarGzip  Kind = "tar.gz"
	TarBzip2 Kind = "tar.bz2"
	TarXZ    Kind = "tar.xz"
	Zip      Kind = "zip"
	Gzip     Kind = "gz" // one file, no archive
)

var kinds = []struct {
	end  string
	kind Kind
}{
	{".tar", Tar},
	{".tar.gz", TarGzip},
	{".tgz", TarGzip},
	{".tar.bz2", TarBzip2},
	{".tbz2", TarBzip2},
	{".tar.xz", TarXZ},
	{".txz", TarXZ},
	{".zip", Zip},
	{".gz", Gzip},
}

// KindOf judges a file by its name, and says what is left of the name without its end.
func KindOf(name string) (k Kind, rest string) {
	base := path.Base(name)
	for _, k := range kinds {
		if rest, ok := strings.CutSuffix(base, k.end); ok && rest != "" {
			return k.kind, rest
		}
	}
	return Plain, base
}

// Item is one file to be had.
type Item struct {
	Index  int    // in command.uris, for messages
	URI    string // http, https, or file where the plan has Local
	Output string // its name, below the directory
	Kind   Kind   // how it is unpacked
	// Rest is what a file of the kind Gzip is called when it is unpacked.
	Rest       string
	Executable bool
	Cache      bool // the keeper keeps it; nothing to the fetcher
	Have       bool // its bytes come from a descriptor
}

// Plan is one run of the fetcher.
type Plan struct {
	Items []Item
	// Bytes is what all files together may have, those of archives included; Entries how many
	// there may be.
	Bytes   int64
	Entries int
	Local   bool // files of this machine may be had
	// Become is who the fetcher becomes before it does anything, on machines where it is
	// started as root and nothing else confines it.
	Become *User
}

// User is a user and a group by their numbers.
type User struct{ UID, GID int }

// Encode words a plan.
func (p Plan) Encode() ([]byte, error) { return json.Marshal(p) }

// Read reads a plan.
func Read(r io.Reader) (Plan, error) {
	var p Plan
	raw, err := io.ReadAll(io.LimitReader(r, MaxPlan+1))
	if err != nil {
		return p, fmt.Errorf("read plan: %w", err)
	}
	if len(raw) > MaxPlan {
		return p, fmt.Errorf("the plan has more than %d bytes", MaxPlan)
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("read plan: %w", err)
	}
	return p, nil
}
