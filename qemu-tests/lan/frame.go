package lan

import (
	"encoding/binary"
	"fmt"
	"io"
)

// maxFrame is the longest frame that a port may send, in bytes. QEMU's own limit is
// 68 KiB; nothing on a LAN with an MTU of 1500 comes near it.
const maxFrame = 64 << 10

// headerLen is the length of an Ethernet header without VLAN tag.
const headerLen = 14

// ReadFrame reads one frame as QEMU's stream sockets carry it: its length as a big-endian
// u32, then its bytes.
func ReadFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < headerLen || n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes: not within %d to %d", n, headerLen, maxFrame)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return frame, nil
}

// AppendFrame appends a frame in the form that ReadFrame reads.
func AppendFrame(to, frame []byte) []byte {
	to = binary.BigEndian.AppendUint32(to, uint32(len(frame)))
	return append(to, frame...)
}
