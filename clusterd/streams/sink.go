package streams

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Sink writes whole records to a subscriber's connection, each by one write and one flush
// within a time limit. Its errors wrap ErrGone.
type Sink struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// NewSink returns the Sink of a request whose headers are set.
func NewSink(w http.ResponseWriter) *Sink {
	return &Sink{w: w, control: http.NewResponseController(w)}
}

// Write writes one framed record.
func (s *Sink) Write(record []byte) error {
	err := s.control.SetWriteDeadline(time.Now().Add(writeLimit))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	if _, err := s.w.Write(record); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return s.Flush()
}

// Flush sends what is written, at the latest the headers.
func (s *Sink) Flush() error {
	if err := s.control.Flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}
