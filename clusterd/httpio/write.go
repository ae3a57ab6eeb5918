package httpio

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
)

const (
	// bufferBytes is what of an answer is held; a longer one is made twice, the first time
	// to know its length.
	bufferBytes = 1 << 20
	// gzipFrom is the shortest body that is compressed.
	gzipFrom = 1024
	// writeTime is how long a whole unary answer may take to be taken.
	writeTime = 2 * time.Minute
)

// Error answers with a sentence.
func Error(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // who does not listen is told no more
}

// NotAllowed answers a method that an endpoint does not have.
func NotAllowed(w http.ResponseWriter, r *http.Request, allowed ...string) {
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	Error(w, http.StatusMethodNotAllowed, "Expecting one of { '"+strings.Join(allowed, "', '")+"' }, but received '"+r.Method+"'")
}

// BodyError answers a request whose body Read did not give.
func BodyError(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	switch {
	case errors.Is(err, ErrBodyTooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrBusy):
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Connection", "close") // the rest of the body is not wanted
	Error(w, status, "Failed to read body: "+err.Error())
}

// Empty answers without a body.
func Empty(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// Message answers 200 with a message in the given media type.
func Message(w http.ResponseWriter, r *http.Request, mediaType string, m proto.Message) error {
	var body []byte
	if mediaType == Protobuf {
		var err error
		if body, err = proto.Marshal(m); err != nil {
			Error(w, http.StatusInternalServerError, "Failed to encode the answer: "+err.Error())
			return fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
		}
	} else {
		body = mesosjson.Marshal(m)
	}
	return Send(w, r, mediaType, func(out io.Writer) error {
		_, err := out.Write(body)
		return err
	})
}

// Send answers 200 with what encode writes, compressed if the client takes that. encode
// may be called twice and must write the same both times.
func Send(w http.ResponseWriter, r *http.Request, mediaType string, encode func(io.Writer) error) error {
	kept := &keeper{}
	if err := encode(kept); err != nil {
		Error(w, http.StatusInternalServerError, "Failed to encode the answer: "+err.Error())
		return fmt.Errorf("encode answer: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Vary", "Accept-Encoding")
	if kept.total >= gzipFrom && acceptsGzip(r) {
		plain := kept
		source := func(out io.Writer) error {
			if plain.whole() {
				_, err := out.Write(plain.buf)
				return err
			}
			return encode(out)
		}
		packed := func(out io.Writer) error {
			z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
			if err != nil {
				return err
			}
			if err := source(z); err != nil {
				return err
			}
			return z.Close()
		}
		kept = &keeper{}
		if err := packed(kept); err != nil {
			Error(w, http.StatusInternalServerError, "Failed to encode the answer: "+err.Error())
			return fmt.Errorf("encode answer: %w", err)
		}
		encode = packed
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", strconv.FormatInt(kept.total, 10))
	err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("write answer: %w", err)
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	if kept.whole() {
		_, err = w.Write(kept.buf)
	} else {
		err = encode(w)
	}
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// keeper counts what is written and keeps it while it is short.
type keeper struct {
	buf   []byte
	total int64
}

func (k *keeper) Write(p []byte) (int, error) {
	k.total += int64(len(p))
	if k.total <= bufferBytes {
		k.buf = append(k.buf, p...)
	} else {
		k.buf = nil
	}
	return len(p), nil
}

func (k *keeper) whole() bool { return k.total <= bufferBytes }

func acceptsGzip(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		coding, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if coding == "gzip" || coding == "*" {
			return !zeroWeight(params)
		}
	}
	return false
}

func zeroWeight(params string) bool {
	_, m, err := mime.ParseMediaType("x/y;" + params)
	if err != nil {
		return false
	}
	q, err := strconv.ParseFloat(m["q"], 64)
	return err == nil && q == 0
}

// Negotiate picks the answer's media type from Accept: JSON where it is allowed, also by
// */* or by saying nothing, else protobuf, else none.
func Negotiate(r *http.Request) (mediaType string, ok bool) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if accept == "" {
		return JSON, true
	}
	protobuf := false
	for _, part := range strings.Split(accept, ",") {
		name, params, _ := strings.Cut(part, ";")
		if zeroWeight(params) {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case JSON, "*/*", "application/*":
			return JSON, true
		case Protobuf:
			protobuf = true
		}
	}
	return Protobuf, protobuf
}
