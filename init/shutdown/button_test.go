package shutdown

import (
	"encoding/binary"
	"testing"
)

func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, (4-len(b)%4)%4)...)
}

func TestReadsWhatTheKernelSays(t *testing.T) {
	head := make([]byte, headers)
	number := binary.NativeEndian.AppendUint32(nil, 9)
	one := append(attribute(1, []byte("acpi_mc_group\x00")), attribute(attrGroup, number)...)
	answer := append(head, append(attribute(attrName, []byte("acpi_event\x00")), attribute(attrGroups, attribute(1, one))...)...)
	if g := groupOf(answer); g != 9 {
		t.Errorf("group %d", g)
	}
	event := make([]byte, 44)
	copy(event, "button/power")
	if msg := append(make([]byte, headers), attribute(attrEvent, event)...); !isPower(msg) {
		t.Error("the power button was not recognised")
	}
	copy(event, "button/sleep")
	if msg := append(make([]byte, headers), attribute(attrEvent, event)...); isPower(msg) {
		t.Error("the sleep button was taken for the power button")
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(append(make([]byte, headers), attribute(attrGroups, attribute(1, attribute(2, []byte{1, 0, 0, 0})))...))
	f.Fuzz(func(t *testing.T, msg []byte) { groupOf(msg); isPower(msg) })
}
