// Package control is PID 1's socket: isolated registers containers' first processes
// there and asks for their exit status, noded lists the programs and asks for an orderly
// reboot. The messages are those of internal/wire/pid1, read and written here by hand on
// protobuf's wire primitives, so that PID 1 carries no reflection; a test holds this
// codec against the generated types.
//
// Invariant: a request is at most 4 KiB, a connection has at most 64 requests open, only
// root may connect; whatever a peer sends, the answer is an error or a closed
// connection, never a panic.
//
// What the requests do is reap's, supervise's and main's business.
package control

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Protocol is the version of the conversation.
const Protocol = 1

const maxRequest = 4 << 10

var errForm = errors.New("malformed request")

// request is pid1.Request; exactly one of the bodies is set.
type request struct {
	id   uint64
	body int // field number of the body, 0 for none

	protocol  uint64 // hello
	program   string // hello
	container string // register, status, ack
	pid       int32  // register
	startTime uint64 // register, status, ack
	wait      bool   // status
	powerOff  bool   // power
	reason    string // power
}

// Field numbers of pid1.Request's bodies.
const (
	bodyHello    = 2
	bodyRegister = 3
	bodyStatus   = 4
	bodyAck      = 5
	bodyServices = 6
	bodyPower    = 7
)

// fields calls num for each varint and bytes for each byte string of a message; other
// types are skipped, as unknown fields are.
func fields(raw []byte, num func(field int, v uint64), bytes func(field int, v []byte) error) error {
	for len(raw) > 0 {
		f, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return errForm
		}
		raw = raw[n:]
		switch kind {
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(raw); n < 0 {
				return errForm
			}
			num(int(f), v)
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(raw); n < 0 {
				return errForm
			}
			if err := bytes(int(f), v); err != nil {
				return err
			}
		default:
			if n = protowire.ConsumeFieldValue(f, kind, raw); n < 0 {
				return errForm
			}
		}
		raw = raw[n:]
	}
	return nil
}

func decode(raw []byte) (request, error) {
	var r request
	err := fields(raw,
		func(f int, v uint64) {
			if f == 1 {
				r.id = v
			}
		},
		func(f int, v []byte) error {
			if f < bodyHello || f > bodyPower {
				return nil
			}
			if r.body != 0 {
				return fmt.Errorf("%w: two bodies", errForm)
			}
			r.body = f
			return r.decodeBody(v)
		})
	if err == nil && r.body == 0 {
		return r, fmt.Errorf("%w: no body", errForm)
	}
	return r, err
}

func (r *request) decodeBody(raw []byte) error {
	type slot struct{ body, field int }
	nums := map[slot]func(uint64){
		{bodyHello, 1}:    func(v uint64) { r.protocol = v },
		{bodyRegister, 2}: func(v uint64) { r.pid = int32(v) },
		{bodyRegister, 3}: func(v uint64) { r.startTime = v },
		{bodyStatus, 2}:   func(v uint64) { r.startTime = v },
		{bodyStatus, 3}:   func(v uint64) { r.wait = v != 0 },
		{bodyAck, 2}:      func(v uint64) { r.startTime = v },
		{bodyPower, 1}:    func(v uint64) { r.powerOff = v == 1 },
	}
	texts := map[slot]*string{
		{bodyHello, 2}: &r.program, {bodyRegister, 1}: &r.container, {bodyStatus, 1}: &r.container,
		{bodyAck, 1}: &r.container, {bodyPower, 2}: &r.reason,
	}
	return fields(raw,
		func(f int, v uint64) {
			if set := nums[slot{r.body, f}]; set != nil {
				set(v)
			}
		},
		func(f int, v []byte) error {
			if at := texts[slot{r.body, f}]; at != nil {
				*at = string(v)
			}
			return nil
		})
}

// message builds a protobuf message; zero values are left out, as proto3 does.
type message []byte

func (m message) num(field protowire.Number, v uint64) message {
	if v == 0 {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

func (m message) text(field protowire.Number, s string) message {
	if s == "" {
		return m
	}
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
}

func (m message) sub(field protowire.Number, body message) message {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), body)
}

func helloBody() message {
	return message(nil).sub(3, message(nil).num(1, Protocol).text(2, "init"))
}

func exitBody(state int, status uint32) message {
	return message(nil).sub(4, message(nil).num(1, uint64(state)).num(2, uint64(status)))
}

func servicesBody(list []Service) message {
	var all message
	for _, s := range list {
		all = all.sub(1, message(nil).text(1, s.Name).text(2, s.State).num(3, uint64(s.PID)).
			num(4, uint64(s.Restarts)).text(5, s.LastExit).num(6, uint64(s.SinceUnixMS)))
	}
	return message(nil).sub(5, all)
}

// response is a whole pid1.Response: the id, an error or nothing, and a body or nothing.
func response(id uint64, err error, body message) message {
	m := message(nil).num(1, id)
	if err != nil {
		return m.text(2, err.Error())
	}
	return append(m, body...)
}
