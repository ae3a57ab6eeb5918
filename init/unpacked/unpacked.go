// Package unpacked says whether the kernel unpacked the whole image. When an archive is cut
// short, damaged, or larger than the memory, the kernel prints one line and goes on with
// what there is: files that end in zeros, and others that are not there at all.
//
// Invariant: every file of the image's manifest is looked at, none is read: a file whose
// pages were not all written takes fewer blocks than its size needs (a ramfs and a tmpfs
// count them). That what was written is right is what the archive's own checksum is for; the
// kernel checks it, and Complaint finds what it said.
//
// What to do about it is main's.
package unpacked

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Manifest is the list of the image's files, in the form of sha256sum. It lies where the
// kernel unpacks it before all that is large.
const Manifest = "/etc/mesolith/files.sha256"

const (
	block    = 512
	maxNamed = 3 // in one error
)

// Check compares the files below root with the manifest, by presence and completeness.
func Check(root string) error {
	file, err := os.Open(root + Manifest)
	if err != nil {
		return fmt.Errorf("the image was not unpacked whole: %w", err)
	}
	defer file.Close()
	var broken []string
	seen := 0
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		_, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			broken = append(broken, strings.TrimPrefix(Manifest, "/")+" (damaged)")
			break
		}
		seen++
		if why := lacks(root + "/" + name); why != "" {
			broken = append(broken, name+" "+why)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the image's manifest: %w", err)
	}
	if len(broken) == 0 {
		return nil
	}
	more := ""
	if n := len(broken) - maxNamed; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
		broken = broken[:maxNamed]
	}
	return fmt.Errorf("the image was not unpacked whole: %s%s, of %d files", strings.Join(broken, ", "), more, seen)
}

// lacks says what a file lacks, nothing for one that is whole.
func lacks(path string) string {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "(missing)"
	case err != nil:
		return fmt.Sprintf("(%v)", err)
	case st.Blocks*block < st.Size:
		return fmt.Sprintf("(%d of %d bytes)", st.Blocks*block, st.Size)
	}
	return ""
}

// failed is how the kernel begins to say that it did not unpack everything.
const failed = "Initramfs unpacking failed"

// Complaint gives what the kernel said about unpacking; empty when it was content.
func Complaint(kernelLog string) string {
	for line := range strings.Lines(kernelLog) {
		if _, said, ok := strings.Cut(line, failed); ok {
			return failed + strings.TrimRight(said, "\n")
		}
	}
	return ""
}
