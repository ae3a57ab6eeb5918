// Package kernel takes the ELF program out of a bzImage.
//
// A virtual machine that is given the ELF (with its PVH entry note) skips
// the firmware's real-mode path and the self-unpacking, which saves most of
// a second of every boot under emulation. The result is exactly what the
// kernel itself would unpack; a payload that is not ELF, or an ELF without
// the PVH note, is refused with the reason, and the caller boots the bzImage
// instead.
package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxBytes bounds the unpacked kernel; today's have 60 to 90 MB.
const maxBytes = 512 << 20

// ErrFormat is wrapped by every error about the bytes themselves.
var ErrFormat = errors.New("not a bzImage with a PVH kernel")

// Offsets in the setup header, Documentation/arch/x86/boot.rst.
const (
	offsetSetupSectors  = 0x1f1
	offsetMagic         = 0x202
	offsetVersion       = 0x206
	offsetPayload       = 0x248
	offsetPayloadLength = 0x24c
	minHeader           = 0x260
)

// ExtractELF returns the ELF program inside the bzImage.
func ExtractELF(bzImage []byte) ([]byte, error) {
	packed, err := payload(bzImage)
	if err != nil {
		return nil, err
	}
	raw, err := unpack(packed)
	if err != nil {
		return nil, fmt.Errorf("unpack the kernel: %w", err)
	}
	if err := checkPVH(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// payload cuts the packed kernel out. Its last four bytes are the unpacked
// size, which gzip has as part of its own format and the others do not.
func payload(image []byte) ([]byte, error) {
	if len(image) < minHeader || string(image[offsetMagic:offsetMagic+4]) != "HdrS" {
		return nil, fmt.Errorf("%w: no boot header", ErrFormat)
	}
	if v := binary.LittleEndian.Uint16(image[offsetVersion:]); v < 0x208 {
		return nil, fmt.Errorf("%w: boot protocol %#x is older than 2.08", ErrFormat, v)
	}
	setup := uint64(image[offsetSetupSectors])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*512 + uint64(binary.LittleEndian.Uint32(image[offsetPayload:]))
	length := uint64(binary.LittleEndian.Uint32(image[offsetPayloadLength:]))
	if length < 8 || start+length > uint64(len(image)) {
		return nil, fmt.Errorf("%w: payload lies outside the file", ErrFormat)
	}
	return image[start : start+length], nil
}

func unpack(packed []byte) ([]byte, error) {
	body := bytes.NewReader(packed[:len(packed)-4])
	var r io.Reader
	var err error
	switch {
	case bytes.HasPrefix(packed, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(body, zstd.WithDecoderMaxMemory(maxBytes)); err == nil {
			defer z.Close()
			r = z
		}
	case bytes.HasPrefix(packed, []byte{0x1f, 0x8b}):
		var g *gzip.Reader
		if g, err = gzip.NewReader(bytes.NewReader(packed)); err == nil {
			g.Multistream(false)
			r = g
		}
	case bytes.HasPrefix(packed, []byte("\xfd7zXZ\x00")):
		r, err = xz.ReaderConfig{DictCap: 128 << 20, SingleStream: true}.NewReader(body)
	default:
		return nil, fmt.Errorf("%w: payload starts with % x (zstd, gzip and xz are known)", ErrFormat, packed[:4])
	}
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxBytes {
		return nil, fmt.Errorf("%w: unpacks to more than %d bytes", ErrFormat, maxBytes)
	}
	return raw, nil
}

// checkPVH looks for the note XEN_ELFNOTE_PHYS32_ENTRY (18) of owner "Xen",
// which holds the entry point QEMU jumps to.
func checkPVH(raw []byte) error {
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%w: payload is not ELF: %v", ErrFormat, err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err != nil {
			return fmt.Errorf("%w: notes cut short", ErrFormat)
		}
		if hasNote(notes, "Xen", 18) {
			return nil
		}
	}
	return fmt.Errorf("%w: no PVH entry note", ErrFormat)
}

func hasNote(notes []byte, owner string, kind uint32) bool {
	for len(notes) >= 12 {
		nameLen := uint64(binary.LittleEndian.Uint32(notes))
		descLen := uint64(binary.LittleEndian.Uint32(notes[4:]))
		noteKind := binary.LittleEndian.Uint32(notes[8:])
		size := 12 + (nameLen+3)&^3 + (descLen+3)&^3
		if size > uint64(len(notes)) {
			return false
		}
		name := string(bytes.TrimRight(notes[12:12+nameLen], "\x00"))
		if name == owner && noteKind == kind {
			return true
		}
		notes = notes[size:]
	}
	return false
}
