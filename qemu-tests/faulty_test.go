//go:build vm

package qemutests

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/image"
	"github.com/mesolith/mesolith/image/cpio"
	"github.com/mesolith/mesolith/image/programs"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// programPlaces are where programs lie in the image.
var programPlaces = map[string]string{
	"init": "init", "clusterd": "usr/lib/mesolith/bin/clusterd", "isolated": "usr/lib/mesolith/isolated/isolated",
}

const sumsPlace = "usr/lib/mesolith/files.sha256"

// faultyImage is the lab's image with the same programs, built to die at named points. The
// kernel unpacks one archive after the other, and the later one's files take the place of
// the earlier one's.
func faultyImage(t *testing.T) *cluster.Image {
	t.Helper()
	dir := filepath.Join(theLab.dir, "faulty")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	checkout, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	builder := programs.Builder{Checkout: checkout, Out: dir, Cache: dir, Tags: []string{"faults"}}
	bodies := map[string][]byte{}
	for _, p := range programs.OnNode {
		built, err := builder.Compile(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if bodies[programPlaces[p.Name]], err = os.ReadFile(built.Path); err != nil {
			t.Fatal(err)
		}
	}
	manifest, err := image.ReadManifest(filepath.Dir(theLab.image.Initramfs))
	if err != nil {
		t.Fatal(err)
	}
	root := cpio.New()
	var sums strings.Builder
	replaced := 0
	for _, f := range manifest.Contents {
		sum := f.SHA256
		if body, ok := bodies[f.Path]; ok {
			root.File(f.Path, 0o755, body)
			sum = fmt.Sprintf("%x", sha256.Sum256(body))
			replaced++
		}
		if f.Path != sumsPlace {
			fmt.Fprintf(&sums, "%s  %s\n", sum, f.Path)
		}
	}
	if replaced != len(bodies) {
		t.Fatalf("the image holds %d of the %d programs", replaced, len(bodies))
	}
	root.File(sumsPlace, 0o644, []byte(sums.String()))
	packed, err := os.ReadFile(theLab.image.Initramfs)
	if err != nil {
		t.Fatal(err)
	}
	whole := bytes.NewBuffer(packed)
	whole.Write(make([]byte, (4-whole.Len()%4)%4)) // an archive that is not packed begins at a multiple of four
	if _, err := root.WriteTo(whole); err != nil {
		t.Fatal(err)
	}
	img := theLab.image
	img.Initramfs = filepath.Join(dir, "initramfs")
	if err := os.WriteFile(img.Initramfs, whole.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return &img
}
