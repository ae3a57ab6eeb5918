package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// tinyELF is an ELF64 header with one PT_NOTE segment.
func tinyELF(owner string, kind uint32) []byte {
	var note bytes.Buffer
	binary.Write(&note, binary.LittleEndian, []uint32{uint32(len(owner) + 1), 4, kind})
	note.WriteString(owner + "\x00")
	for note.Len()%4 != 0 {
		note.WriteByte(0)
	}
	note.Write([]byte{0, 0, 0, 1})

	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	binary.Write(&b, binary.LittleEndian, []uint16{2, 62})
	binary.Write(&b, binary.LittleEndian, uint32(1))
	binary.Write(&b, binary.LittleEndian, []uint64{0, 64, 0})
	binary.Write(&b, binary.LittleEndian, uint32(0))
	binary.Write(&b, binary.LittleEndian, []uint16{64, 56, 1, 64, 0, 0})
	binary.Write(&b, binary.LittleEndian, []uint32{4, 4})
	n := uint64(note.Len())
	binary.Write(&b, binary.LittleEndian, []uint64{120, 0, 0, n, n, 4})
	b.Write(note.Bytes())
	return b.Bytes()
}

func bzImage(t testing.TB, program []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	packed := e.EncodeAll(program, nil)
	packed = binary.LittleEndian.AppendUint32(packed, uint32(len(program)))
	image := make([]byte, 5*512)
	image[offsetSetupSectors] = 4
	copy(image[offsetMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[offsetVersion:], 0x20f)
	binary.LittleEndian.PutUint32(image[offsetPayloadLength:], uint32(len(packed)))
	return append(image, packed...)
}

func TestTakesTheProgramOut(t *testing.T) {
	program := tinyELF("Xen", 18)
	got, err := ExtractELF(bzImage(t, program))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, program) {
		t.Error("other bytes came out than went in")
	}
}

func TestRefuses(t *testing.T) {
	outside := bzImage(t, tinyELF("Xen", 18))
	binary.LittleEndian.PutUint32(outside[offsetPayload:], 1<<30)
	for name, image := range map[string][]byte{
		"empty":        nil,
		"zeros":        make([]byte, 4096),
		"outside":      outside,
		"no ELF":       bzImage(t, []byte("this is no program at all")),
		"no PVH":       bzImage(t, tinyELF("Xen", 17)),
		"other owner":  bzImage(t, tinyELF("GNU", 18)),
		"other format": append(bzImage(t, nil)[:5*512], make([]byte, 64)...),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ExtractELF(image); !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
		})
	}
}

func FuzzExtractELF(f *testing.F) {
	f.Add(bzImage(f, tinyELF("Xen", 18)))
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, image []byte) {
		raw, err := ExtractELF(image)
		if err == nil && len(raw) < 64 {
			t.Fatal("an ELF program of less than its header")
		}
	})
}
