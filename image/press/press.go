// Package press packs bytes with zstd as tightly as its format allows.
//
// It runs the host's zstd, the reference one: the best level of the library in Go
// that unpacks elsewhere leaves the initramfs a thirteenth larger (1.45 MB), and
// every node loads it at every boot. The bytes depend on the input and on the
// version of zstd, which the lock file pins with the rest of the tool chain; not
// on the number of processors, the environment or the clock. Whoever unpacks
// needs the window in memory, or what the input has if that is less; the level
// changes only what packing costs.
package press

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// level packs an initramfs of 51 MB in 24 s and 230 MB of memory. Level 22 takes
// 46 s and twice the memory for 0.2 % less; 19, which searches otherwise, is no
// faster and 0.5 % larger. A second thread would have to read the first one's
// window again, so that 24 s of one processor become 42 s of two.
const level = 20

// Zstd packs raw into one frame that tells its size and has a checksum.
// windowLog is the base-2 logarithm of the window in bytes, from 10 to 27: how far
// back a repetition is found, and what unpacking needs in memory unless raw is
// smaller.
func Zstd(ctx context.Context, raw []byte, windowLog int) ([]byte, error) {
	if windowLog < 10 || windowLog > 27 {
		return nil, fmt.Errorf("pack with zstd: a window of 2^%d bytes: the kernel unpacks from 2^10 to 2^27", windowLog)
	}
	program, err := exec.LookPath("zstd")
	if err != nil {
		return nil, fmt.Errorf("pack with zstd: the program is not installed (%w): run make tools, which installs the package zstd", err)
	}
	// What the environment says to zstd (ZSTD_CLEVEL, ZSTD_NBTHREADS) is not handed on.
	cmd := exec.CommandContext(ctx, program, "-q", "-c", "--ultra", "-"+strconv.Itoa(level), "--check", "--single-thread",
		"--long="+strconv.Itoa(windowLog), "--zstd=wlog="+strconv.Itoa(windowLog), "--stream-size="+strconv.Itoa(len(raw)))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.Stdin = bytes.NewReader(raw)
	var packed, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &packed, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, ctx.Err())
		}
		return nil, fmt.Errorf("pack %d bytes with %s: %w: %s", len(raw), program, err, bytes.TrimSpace(said.Bytes()))
	}
	return packed.Bytes(), nil
}
