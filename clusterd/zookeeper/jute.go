package zookeeper

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// opcode is the kind of a request.
type opcode int32

// What is answered. Everything else that is known to clients only reads is answered with
// errUnimplemented.
const (
	opCreate          opcode = 1
	opDelete          opcode = 2
	opExists          opcode = 3
	opGetData         opcode = 4
	opSetData         opcode = 5
	opGetACL          opcode = 6
	opSetACL          opcode = 7
	opGetChildren     opcode = 8
	opSync            opcode = 9
	opPing            opcode = 11
	opGetChildren2    opcode = 12
	opCheck           opcode = 13
	opMulti           opcode = 14
	opCreate2         opcode = 15
	opReconfig        opcode = 16
	opCreateContainer opcode = 19
	opDeleteContainer opcode = 20
	opCreateTTL       opcode = 21
	opAuth            opcode = 100
	opSetWatches      opcode = 101
	opSetWatches2     opcode = 105
	opClose           opcode = -11
)

// errorCode is the answer's third number; clients have a name for each.
type errorCode int32

const (
	ok               errorCode = 0
	errSystem        errorCode = -1
	errUnimplemented errorCode = -6
	errBadArguments  errorCode = -8
	errNoNode        errorCode = -101
	errNoAuth        errorCode = -102
	errNodeExists    errorCode = -110
	errAuthFailed    errorCode = -115
)

// xids that are no request's number.
const xidEvent = -1

// errForm is wrapped by every refusal of what a client sent.
var errForm = errors.New("not ZooKeeper's protocol")

// reader takes a frame apart; after the first error everything is zero.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int, what string) []byte {
	if r.err == nil && (n < 0 || n > len(r.rest)) {
		r.err = fmt.Errorf("%w: %s of %d bytes, %d are left", errForm, what, n, len(r.rest))
	}
	if r.err != nil {
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) int32(what string) int32 {
	b := r.take(4, what)
	if b == nil {
		return 0
	}
	return int32(binary.BigEndian.Uint32(b))
}

func (r *reader) int64(what string) int64 {
	b := r.take(8, what)
	if b == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

func (r *reader) boolean(what string) bool {
	b := r.take(1, what)
	return b != nil && b[0] != 0
}

// bytes reads a buffer; a length of -1 means that there is none.
func (r *reader) bytes(what string) []byte {
	n := r.int32(what)
	if n == -1 {
		return nil
	}
	return r.take(int(n), what)
}

func (r *reader) text(what string) string { return string(r.bytes(what)) }

// texts reads a list; no more is made room for than the frame can hold.
func (r *reader) texts(what string) []string {
	n := r.int32(what)
	if n == -1 {
		return nil
	}
	if r.err == nil && (n < 0 || int(n) > len(r.rest)/4) {
		r.err = fmt.Errorf("%w: %d %s in %d bytes", errForm, n, what, len(r.rest))
	}
	if r.err != nil {
		return nil
	}
	out := make([]string, 0, n)
	for range n {
		out = append(out, r.text(what))
	}
	return out
}

// hello is a client's first frame.
type hello struct {
	zxid     int64 // the newest change that it has seen
	timeout  int32 // milliseconds
	session  int64 // 0: a new one
	password []byte
	// asksReadOnly: the client knows of the last field, and reads it in the answer.
	asksReadOnly bool
}

func decodeHello(frame []byte) (hello, error) {
	r := reader{rest: frame}
	r.int32("protocol version")
	h := hello{zxid: r.int64("zxid"), timeout: r.int32("timeout"), session: r.int64("session"), password: r.bytes("password")}
	h.asksReadOnly = len(r.rest) > 0
	return h, r.err
}

// request is a frame after the first one, as far as it is looked at.
type request struct {
	xid    int32
	op     opcode
	path   string
	watch  bool
	scheme string // of credentials

	dataWatches, existWatches, childWatches []string
	persistent                              bool // it sets watches that stay, which nobody was given here
}

func decodeRequest(frame []byte) (request, error) {
	r := reader{rest: frame}
	q := request{xid: r.int32("xid"), op: opcode(r.int32("operation"))}
	switch q.op {
	case opExists, opGetData, opGetChildren, opGetChildren2:
		q.path = r.text("path")
		q.watch = r.boolean("watch")
	case opGetACL, opSync, opCreate, opDelete, opSetData, opSetACL, opCheck, opCreate2, opCreateContainer, opDeleteContainer, opCreateTTL:
		q.path = r.text("path") // what follows would be written, and nothing is
	case opAuth:
		r.int32("type")
		q.scheme = r.text("scheme")
	case opSetWatches, opSetWatches2:
		r.int64("zxid") // see conn.setWatches
		q.dataWatches, q.existWatches, q.childWatches = r.texts("watches"), r.texts("watches"), r.texts("watches")
		if q.op == opSetWatches2 {
			q.persistent = len(r.texts("watches"))+len(r.texts("watches")) > 0
		}
	}
	return q, r.err
}

// frame is an answer being written, with room for its length in front.
type frame []byte

func newFrame() frame { return make(frame, 4, 256) }

func (f frame) int32(v int32) frame  { return binary.BigEndian.AppendUint32(f, uint32(v)) }
func (f frame) int64(v int64) frame  { return binary.BigEndian.AppendUint64(f, uint64(v)) }
func (f frame) bytes(b []byte) frame { return append(f.int32(int32(len(b))), b...) }

func (f frame) texts(list []string) frame {
	f = f.int32(int32(len(list)))
	for _, s := range list {
		f = f.bytes([]byte(s))
	}
	return f
}

func (f frame) boolean(v bool) frame {
	if v {
		return append(f, 1)
	}
	return append(f, 0)
}

func (f frame) stat(s stat) frame {
	return f.int64(s.created).int64(s.modified).int64(s.createdMS).int64(s.modifiedMS).
		int32(0).int32(s.childrenVersion).int32(0).int64(s.owner).
		int32(s.length).int32(s.children).int64(s.childrenModified)
}

// done writes the length in front: what goes over the wire.
func (f frame) done() []byte {
	binary.BigEndian.PutUint32(f, uint32(len(f)-4))
	return f
}
