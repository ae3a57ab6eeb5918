package streams

import (
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
)

// Encoding is how the records of a stream are written.
type Encoding int

// The two encodings of the v1 API.
const (
	JSON Encoding = iota
	Protobuf
	encodings
)

// ContentType is the media type of the encoding, exactly as clients compare it.
func (e Encoding) ContentType() string {
	if e == Protobuf {
		return "application/x-protobuf"
	}
	return "application/json"
}

// eventOverheadBytes is what an event costs a stream beside its message.
const eventOverheadBytes = 64

// Event is one message on its way to any number of subscribers.
type Event struct {
	message proto.Message
	bytes   int
	once    [encodings]sync.Once
	framed  [encodings][]byte
}

// NewEvent makes an event of a message, which must not be changed any more. It is encoded
// when the first subscriber of a format writes it, not here: the caller may be in a hurry.
func NewEvent(m proto.Message) *Event {
	return &Event{message: m, bytes: proto.Size(m) + eventOverheadBytes}
}

// Message returns the message, for reading.
func (e *Event) Message() proto.Message { return e.message }

// record returns the framed record, encoded once per format.
func (e *Event) record(enc Encoding) []byte {
	e.once[enc].Do(func() {
		var body []byte
		if enc == Protobuf {
			// An event lacks a required field only by a mistake of ours; the client is
			// the better place to notice than a stream that silently skips it.
			body, _ = proto.MarshalOptions{AllowPartial: true}.Marshal(e.message)
		} else {
			body = mesosjson.Marshal(e.message)
		}
		e.framed[enc] = recordio.Append(make([]byte, 0, len(body)+12), body)
	})
	return e.framed[enc]
}
