package shutdown

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Numbers of generic netlink and of its family for events of ACPI, which the kernel
// itself carries (no module, no input device).
const (
	acpiFamily = "acpi_event"
	getFamily  = 3 // CTRL_CMD_GETFAMILY
	attrName   = 2 // CTRL_ATTR_FAMILY_NAME
	attrGroups = 7 // CTRL_ATTR_MCAST_GROUPS
	attrGroup  = 2 // CTRL_ATTR_MCAST_GRP_ID
	attrEvent  = 1 // ACPI_GENL_ATTR_EVENT
	powerClass = "button/power"
	headers    = unix.NLMSG_HDRLEN + 4 // of netlink and of generic netlink
)

// ErrNoButton says that this machine's kernel announces no power button.
var ErrNoButton = errors.New("no power button is announced on this machine")

// Button calls pressed each time the machine's power button is pushed, a virtual one
// too. It returns only with an error.
func Button(pressed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return fmt.Errorf("listen for the power button: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("listen for the power button: %w", err)
	}
	if err := unix.Sendto(fd, familyRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask for ACPI's events: %w", err)
	}
	buf := make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return fmt.Errorf("ask for ACPI's events: %w", err)
	}
	group := groupOf(buf[:n])
	if group == 0 {
		return ErrNoButton
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group)); err != nil {
		return fmt.Errorf("listen for the power button: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listen for the power button: %w", err)
		}
		if isPower(buf[:n]) {
			pressed()
		}
	}
}

func familyRequest() []byte {
	name := append([]byte(acpiFamily), 0)
	body := []byte{getFamily, 1, 0, 0}
	body = binary.NativeEndian.AppendUint16(body, uint16(4+len(name)))
	body = binary.NativeEndian.AppendUint16(body, attrName)
	body = append(body, name...)
	body = append(body, make([]byte, (4-len(body)%4)%4)...)

	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, unix.GENL_ID_CTRL)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST)
	msg = append(msg, make([]byte, 8)...) // sequence and port
	return append(msg, body...)
}

// attributes calls do for each attribute of a list, as far as it is well formed.
func attributes(raw []byte, do func(kind uint16, value []byte)) {
	for len(raw) >= 4 {
		n := int(binary.NativeEndian.Uint16(raw))
		if n < 4 || n > len(raw) {
			return
		}
		do(binary.NativeEndian.Uint16(raw[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), raw[4:n])
		raw = raw[min((n+3)&^3, len(raw)):]
	}
}

// groupOf reads the number of the family's one multicast group, 0 when there is none.
func groupOf(msg []byte) (group uint32) {
	if len(msg) < headers || binary.NativeEndian.Uint16(msg[4:]) == unix.NLMSG_ERROR {
		return 0
	}
	attributes(msg[headers:], func(kind uint16, groups []byte) {
		if kind != attrGroups {
			return
		}
		attributes(groups, func(_ uint16, one []byte) {
			attributes(one, func(kind uint16, value []byte) {
				if kind == attrGroup && len(value) == 4 {
					group = binary.NativeEndian.Uint32(value)
				}
			})
		})
	})
	return group
}

// isPower reads an event: the device's class in 20 bytes, its name, type and data.
func isPower(msg []byte) (power bool) {
	if len(msg) < headers {
		return false
	}
	attributes(msg[headers:], func(kind uint16, value []byte) {
		if kind == attrEvent && len(value) >= 20 {
			class, _, _ := bytes.Cut(value[:20], []byte{0})
			power = power || string(class) == powerClass
		}
	})
	return power
}
