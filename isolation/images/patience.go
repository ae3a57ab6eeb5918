package images

import (
	"errors"
	"io"
	"time"
)

// patience is how long a server may keep the puller waiting beyond what leastRate
// allows it: pulls are few at once, and one that never ends would keep others out.
const patience = time.Minute

// leastRate is what a server has to send, in bytes a second of waiting.
const leastRate = 1 << 10

// patient is an answer's body that is given up when the waiting for it gets too long.
// Only the time inside Read counts: how slow the reader is, is not the sender's fault.
type patient struct {
	body   io.ReadCloser
	giveUp func()        // ends the request
	left   time.Duration // what may still be waited without a byte
}

// errSlow is what a reader gets who has waited too long.
var errSlow = errors.New("the server sends less than 1 KiB a second")

func (p *patient) Read(b []byte) (int, error) {
	if p.left <= 0 {
		return 0, errSlow
	}
	began := time.Now()
	late := time.AfterFunc(p.left, p.giveUp)
	n, err := p.body.Read(b)
	inTime := late.Stop()
	p.left += time.Duration(n)*time.Second/leastRate - time.Since(began)
	if !inTime {
		return n, errSlow
	}
	p.left = min(p.left, patience)
	return n, err
}

// Close closes the body and ends the request.
func (p *patient) Close() error {
	defer p.giveUp()
	return p.body.Close()
}
