// Package httpio reads requests and writes answers for all faces of the API, within
// bounds: how long a body may be and take, how many bodies may be held at a time, how many
// messages one may unfold into; and with the headers that Mesos' clients insist on.
//
// Invariants: whatever a client sends costs it a 4xx and this process no more than the
// budget; a unary answer always has a Content-Length, an answer without body no
// Content-Type; an answer is never held in memory beyond bufferBytes, however long.
//
// Streams of events are written by streams, who may call is judged by auth.
package httpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
)

const (
	// MaxBody is the longest request body; mesos-go's RecordIO has the same limit.
	MaxBody = 4 << 20
	// smallBody is what every request may take without asking the budget.
	smallBody = 64 << 10
	// bodyTime is how long a body may take to arrive, budgetWait how long a long one waits
	// for its turn.
	bodyTime   = 60 * time.Second
	budgetWait = 10 * time.Second
	// maxMessages is how many messages one protobuf body may hold: an empty one takes two
	// bytes on the wire and a hundred in memory.
	maxMessages = 100_000
	maxNesting  = 100
)

// Media types of calls.
const (
	JSON     = "application/json"
	Protobuf = "application/x-protobuf"
)

var (
	// ErrBodyTooLarge is answered with 413.
	ErrBodyTooLarge = fmt.Errorf("body is longer than %d bytes", MaxBody)
	// ErrBusy is answered with 503.
	ErrBusy = errors.New("too many long requests at a time, try again")
	// ErrBody is answered with 400.
	ErrBody = errors.New("body is not readable")
)

// Budget bounds how many long bodies are in memory at a time.
type Budget struct{ slots chan struct{} }

// NewBudget allows n long bodies at a time, up to MaxBody each.
func NewBudget(n int) *Budget { return &Budget{slots: make(chan struct{}, n)} }

// Read takes a request's body. done must be called when the body is no longer used.
func (b *Budget) Read(w http.ResponseWriter, r *http.Request) (body []byte, done func(), err error) {
	done = func() {}
	if r.ContentLength > MaxBody {
		return nil, done, ErrBodyTooLarge
	}
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(bodyTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, done, fmt.Errorf("%w: %w", ErrBody, err)
	}
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(r.Body, smallBody))
	if err == nil && n == smallBody {
		if done, err = b.take(r); err == nil {
			_, err = io.Copy(&buf, io.LimitReader(r.Body, MaxBody-smallBody+1))
		}
	}
	switch {
	case errors.Is(err, ErrBusy):
		return nil, done, err
	case err != nil:
		done()
		return nil, func() {}, fmt.Errorf("%w: %w", ErrBody, err)
	case buf.Len() > MaxBody:
		done()
		return nil, func() {}, ErrBodyTooLarge
	}
	// The connection is read on while the answer is made, to notice that the caller left.
	if err := control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		done()
		return nil, func() {}, fmt.Errorf("%w: %w", ErrBody, err)
	}
	return buf.Bytes(), done, nil
}

func (b *Budget) take(r *http.Request) (func(), error) {
	wait := time.NewTimer(budgetWait)
	defer wait.Stop()
	select {
	case b.slots <- struct{}{}:
		return func() { <-b.slots }, nil
	case <-wait.C:
	case <-r.Context().Done():
	}
	return func() {}, ErrBusy
}

// Decode reads a call of the given media type into m.
func Decode(mediaType string, body []byte, m proto.Message) error {
	if mediaType == JSON {
		return mesosjson.Unmarshal(body, m)
	}
	left := maxMessages
	if err := measure(m.ProtoReflect().Descriptor(), body, &left, maxNesting); err != nil {
		return err
	}
	return proto.UnmarshalOptions{RecursionLimit: maxNesting}.Unmarshal(body, m)
}

// measure walks the wire form without unfolding it and refuses what would unfold too far,
// and text that is not UTF-8: other messages that it is put into could not be written.
func measure(d protoreflect.MessageDescriptor, b []byte, left *int, depth int) error {
	if *left--; *left < 0 {
		return fmt.Errorf("more than %d messages in one body", maxMessages)
	}
	if depth == 0 {
		return fmt.Errorf("messages nested deeper than %d", maxNesting)
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return protowire.ParseError(n)
		}
		f := d.Fields().ByNumber(num)
		if f != nil && f.Message() != nil && typ == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(b)
			if err := measure(f.Message(), inner, left, depth-1); err != nil {
				return err
			}
		}
		if f != nil && f.Kind() == protoreflect.StringKind && typ == protowire.BytesType {
			if text, _ := protowire.ConsumeBytes(b); !utf8.Valid(text) {
				return fmt.Errorf("field %s is %.60q, which is not UTF-8", f.FullName(), text)
			}
		}
		if f != nil && f.IsList() && f.Message() == nil {
			if *left--; *left < 0 {
				return fmt.Errorf("more than %d messages and list elements in one body", maxMessages)
			}
		}
		b = b[n:]
	}
	return nil
}

// ReadCall reads a call by its Content-Type, or answers why it cannot; what names the type
// of call in sentences. done must be called in either case when m is no longer used.
func ReadCall(w http.ResponseWriter, r *http.Request, b *Budget, what string, m proto.Message) (done func(), ok bool) {
	media, given := contentType(r)
	if !given {
		Error(w, http.StatusBadRequest, "Expecting 'Content-Type' to be present")
		return func() {}, false
	}
	if media != JSON && media != Protobuf {
		Error(w, http.StatusUnsupportedMediaType, "Expecting 'Content-Type' of "+JSON+" or "+Protobuf)
		return func() {}, false
	}
	body, done, err := b.Read(w, r)
	if err != nil {
		BodyError(w, err)
		return done, false
	}
	if err := Decode(media, body, m); err != nil {
		Error(w, http.StatusBadRequest, "Failed to parse body into "+what+": "+err.Error())
		return done, false
	}
	return done, true
}

func contentType(r *http.Request) (string, bool) {
	values, ok := r.Header["Content-Type"]
	if !ok || len(values) == 0 {
		return "", false
	}
	return values[0], true
}
