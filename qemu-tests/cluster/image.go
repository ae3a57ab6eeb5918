package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/mesolith/mesolith/image"
)

// consoleArgs are added to an image's kernel line: the console is the serial port.
const consoleArgs = " console=ttyS0 quiet"

// FindImage finds a built image and verifies it against its manifest. Beside its
// directory may lie the form of the kernel that QEMU starts fastest.
func FindImage(dir string) (Image, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Image{}, fmt.Errorf("find the image: %w", err)
	}
	m, err := image.ReadManifest(dir)
	if err != nil {
		return Image{}, err
	}
	img := Image{
		Kernel: filepath.Join(dir, "vmlinuz"), Initramfs: filepath.Join(dir, "initramfs.zst"),
		Cmdline: m.CommandLine + consoleArgs,
	}
	if fast := filepath.Join(filepath.Dir(dir), "qemu", "vmlinux"); notOlder(fast, img.Kernel) {
		img.Kernel = fast
	}
	return img, nil
}

// notOlder reports whether a file is there and not older than what it was made of.
func notOlder(file, from string) bool {
	made, err := os.Stat(file)
	if err != nil {
		return false
	}
	source, err := os.Stat(from)
	return err == nil && !made.ModTime().Before(source.ModTime())
}
