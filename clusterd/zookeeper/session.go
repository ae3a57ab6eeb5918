package zookeeper

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"
)

const passwordBytes = 16

// newSession gives a number that no other client has.
func newSession() int64 {
	for {
		var b [8]byte
		rand.Read(b[:])
		if id := int64(binary.BigEndian.Uint64(b[:]) >> 1); id != 0 {
			return id
		}
	}
}

// password belongs to a session of one generation: after a new birth clients begin anew,
// because sequence numbers may come again. It guards nothing, a session owns nothing.
func password(generation string, session int64) []byte {
	h := hmac.New(sha256.New, []byte("mesolith zookeeper session of "+generation))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(session)))
	return h.Sum(nil)[:passwordBytes]
}

// welcome is the answer to a client's first frame.
func welcome(h hello, session int64, timeout time.Duration, password []byte) []byte {
	f := newFrame().int32(0).int32(int32(timeout.Milliseconds())).int64(session).bytes(password)
	if h.asksReadOnly {
		f = f.boolean(false) // a client that hears true goes on looking for another server
	}
	return f.done()
}

// expired tells a client that its session is none: it begins a new one.
func expired(h hello) []byte { return welcome(h, 0, 0, make([]byte, passwordBytes)) }
