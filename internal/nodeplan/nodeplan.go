// Package nodeplan is what noded hands PID 1 once it knows what the machine is to be:
// its name, the sizes of the two tmpfs, the memory of the control groups, the watchdog's
// timeout and whether modules may still be loaded after boot.
//
// The form is fixed: a magic, a version, the body's length, fields of fixed width in a
// fixed order (two strings with a length byte), a checksum. PID 1 parses this and the
// frames of its own socket, nothing else; so there is no YAML, no JSON and no reflection
// in here, and Decode bounds everything before it looks at it.
//
// Invariant: Decode accepts exactly what Encode makes of a Plan that Check accepts; a
// plan that was accepted can be carried out without looking at it again.
//
// What a plan means is decided by noded (from the node document) and carried out by
// init; Default is what a machine without a document runs on.
package nodeplan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// MaxBytes bounds one encoded plan.
const MaxBytes = 64 << 10

// Version is the form that this package writes and the only one it reads: init and
// noded come out of the same image.
const Version = 1

const (
	mib = 1 << 20
	gib = 1 << 30

	maxHostname = 63
	headBytes   = 8 + 2 + 4
	sumBytes    = 4
)

// ErrForm is wrapped by every refusal of Decode.
var ErrForm = errors.New("not a node plan")

// Plan is what PID 1 is to make of the machine. Sizes are bytes; zero sizes are refused.
type Plan struct {
	Hostname string

	StateBytes     uint64 // tmpfs /var/lib/mesolith in RAM mode
	StateInodes    uint64
	RAMStoreBytes  uint64 // tmpfs /store in RAM mode
	RAMStoreInodes uint64

	InitMinBytes     uint64 // memory.min, kept from tasks' pressure
	NodedMinBytes    uint64
	ClusterdMinBytes uint64
	IsolatedMinBytes uint64
	StoreMaxBytes    uint64 // memory.max of pulls
	TasksMaxBytes    uint64 // memory.max of all tasks together = what is offered
	TasksMaxPids     uint64

	WatchdogSeconds uint16
	ModulesLate     bool // true: modules may be loaded after boot
}

var magic = [8]byte{'M', 'S', 'L', 'P', 'L', 'A', 'N', '\n'}

// Default is the plan of a machine with total bytes of memory, a reserve (zero: the
// default, max(112 MiB, 5 %)) and a share of the memory for images and sandboxes in
// per cent (zero: 25).
func Default(total, reserve uint64, ramStorePercent int) Plan {
	if reserve == 0 {
		reserve = max(112*mib, total/20)
	}
	if ramStorePercent <= 0 || ramStorePercent > 90 {
		ramStorePercent = 25
	}
	store := total / 100 * uint64(ramStorePercent)
	tasks := uint64(16 * mib)
	if total > reserve+store+tasks {
		tasks = total - reserve - store
	}
	state := max(48*mib, reserve/2)
	return Plan{
		StateBytes:     state,
		StateInodes:    64 << 10,
		RAMStoreBytes:  max(store, 16*mib),
		RAMStoreInodes: max(64<<10, store/(8<<10)),

		InitMinBytes:     6 * mib,
		NodedMinBytes:    14 * mib,
		ClusterdMinBytes: min(reserve/3, 512*mib),
		IsolatedMinBytes: 14 * mib,
		StoreMaxBytes:    max(store, 64*mib),
		TasksMaxBytes:    tasks,
		TasksMaxPids:     min(max(total/(64<<10), 4096), 4<<20),

		WatchdogSeconds: 30,
	}
}

// Check says what of a plan could not be carried out.
func (p Plan) Check() error {
	if len(p.Hostname) > maxHostname || !hostnameOK(p.Hostname) {
		return fmt.Errorf("%w: hostname %q is not a host name of at most %d letters, digits and hyphens", ErrForm, p.Hostname, maxHostname)
	}
	for _, s := range p.sizes() {
		if *s.at < s.least || *s.at > s.most {
			return fmt.Errorf("%w: %s is %d, outside %d to %d", ErrForm, s.name, *s.at, s.least, s.most)
		}
	}
	if p.WatchdogSeconds < 2 || p.WatchdogSeconds > 600 {
		return fmt.Errorf("%w: watchdog of %d s is outside 2 to 600", ErrForm, p.WatchdogSeconds)
	}
	return nil
}

type size struct {
	name        string
	at          *uint64
	least, most uint64
}

// sizes lists the fixed-width fields in the order in which they are encoded.
func (p *Plan) sizes() []size {
	const top = 1 << 50
	return []size{
		{"size of state", &p.StateBytes, mib, top},
		{"inodes of state", &p.StateInodes, 256, 1 << 40},
		{"size of ramStore", &p.RAMStoreBytes, mib, top},
		{"inodes of ramStore", &p.RAMStoreInodes, 256, 1 << 40},
		{"memory.min of init", &p.InitMinBytes, 0, 64 * gib},
		{"memory.min of noded", &p.NodedMinBytes, 0, 64 * gib},
		{"memory.min of clusterd", &p.ClusterdMinBytes, 0, 64 * gib},
		{"memory.min of isolated", &p.IsolatedMinBytes, 0, 64 * gib},
		{"memory.max of the store", &p.StoreMaxBytes, mib, top},
		{"memory.max of tasks", &p.TasksMaxBytes, mib, top},
		{"pids.max of tasks", &p.TasksMaxPids, 16, 4 << 20},
	}
}

func hostnameOK(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return true
}

// Encode writes a plan in its one form.
func Encode(p Plan) ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	body := append([]byte{byte(len(p.Hostname))}, p.Hostname...)
	for _, s := range p.sizes() {
		body = binary.BigEndian.AppendUint64(body, *s.at)
	}
	body = binary.BigEndian.AppendUint16(body, p.WatchdogSeconds)
	late := byte(0)
	if p.ModulesLate {
		late = 1
	}
	body = append(body, late)

	out := append([]byte(nil), magic[:]...)
	out = binary.BigEndian.AppendUint16(out, Version)
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	out = append(out, body...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out)), nil
}

// Read takes one plan from a stream, reading no byte beyond it. It returns io.EOF,
// unwrapped, when the stream ends before the first byte.
func Read(r io.Reader) (Plan, error) {
	head := make([]byte, headBytes)
	if n, err := io.ReadFull(r, head); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return Plan{}, io.EOF
		}
		return Plan{}, fmt.Errorf("%w: head: %w", ErrForm, err)
	}
	n := binary.BigEndian.Uint32(head[10:])
	if n > MaxBytes-headBytes-sumBytes {
		return Plan{}, fmt.Errorf("%w: a body of %d bytes is longer than %d", ErrForm, n, MaxBytes)
	}
	rest := make([]byte, int(n)+sumBytes)
	if _, err := io.ReadFull(r, rest); err != nil {
		return Plan{}, fmt.Errorf("%w: body: %w", ErrForm, err)
	}
	return Decode(append(head, rest...))
}

// Decode reads one whole plan.
func Decode(raw []byte) (Plan, error) {
	if len(raw) < headBytes+sumBytes || len(raw) > MaxBytes {
		return Plan{}, fmt.Errorf("%w: %d bytes", ErrForm, len(raw))
	}
	if [8]byte(raw[:8]) != magic {
		return Plan{}, fmt.Errorf("%w: wrong magic", ErrForm)
	}
	if v := binary.BigEndian.Uint16(raw[8:]); v != Version {
		return Plan{}, fmt.Errorf("%w: version %d, this init reads %d", ErrForm, v, Version)
	}
	end := len(raw) - sumBytes
	if n := binary.BigEndian.Uint32(raw[10:]); uint64(n) != uint64(end-headBytes) {
		return Plan{}, fmt.Errorf("%w: length says %d, body has %d bytes", ErrForm, n, end-headBytes)
	}
	if crc32.ChecksumIEEE(raw[:end]) != binary.BigEndian.Uint32(raw[end:]) {
		return Plan{}, fmt.Errorf("%w: checksum does not match", ErrForm)
	}
	return decodeBody(raw[headBytes:end])
}

func decodeBody(body []byte) (Plan, error) {
	var p Plan
	fields := p.sizes()
	if len(body) < 1 || len(body) != 1+int(body[0])+8*len(fields)+3 {
		return Plan{}, fmt.Errorf("%w: body of %d bytes", ErrForm, len(body))
	}
	n := int(body[0])
	p.Hostname = string(body[1 : 1+n])
	body = body[1+n:]
	for _, s := range fields {
		*s.at = binary.BigEndian.Uint64(body)
		body = body[8:]
	}
	p.WatchdogSeconds = binary.BigEndian.Uint16(body)
	if body[2] > 1 {
		return Plan{}, fmt.Errorf("%w: flag %d", ErrForm, body[2])
	}
	p.ModulesLate = body[2] == 1
	return p, p.Check()
}
