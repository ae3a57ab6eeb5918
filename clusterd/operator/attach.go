package operator

import (
	"context"
	"errors"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// followEvery is how often files of output are looked at for more; each reopenPerLook
// looks, whether another file has taken their place.
const (
	followEvery   = 50 * time.Millisecond
	reopenPerLook = 10
)

// session begins a command inside of a container and streams its output until it has ended;
// when the caller leaves, it is killed.
func (h *agentHandler) session(c *containerRequest) error {
	l := c.GetLaunchNestedContainerSession()
	n := agent.Nested{Parent: c.about.GetParent().GetValue(), Name: c.about.GetValue(), Command: l.GetCommand(), Container: l.GetContainer(), Terminal: l.GetContainer().GetTtyInfo()}
	if n.Terminal != nil { // which is the session's, and asked for by itself
		n.Container = proto.CloneOf(n.Container)
		n.Container.TtyInfo = nil
	}
	if !h.sessions.begin() {
		return errTooMany
	}
	defer h.sessions.end()
	of, err := h.Containers.Session(c.r.Context(), n)
	switch {
	case errors.Is(err, fs.ErrExist):
		return refusal{http.StatusBadRequest, "Container '" + printedID(c.about) + "' exists already: choose another 'container_id.value'"}
	case errors.Is(err, fs.ErrInvalid):
		return refusal{http.StatusBadRequest, "Container '" + printedID(c.about) + "' cannot be launched: " + err.Error()}
	case err != nil:
		return err
	}
	c.done()
	s := newSession(of)
	h.sessions.set(c.id(), s)
	defer func() {
		h.sessions.set(c.id(), nil)
		s.close()
	}()
	if err := serveOutput(c.r.Context(), c.w, c.media, s.out); err != nil {
		h.Log.Info("a session was left, and is killed", "container", c.id(), "why", err)
	}
	return nil
}

// attachOutput streams what a container says from now on: a session's from its streams, any
// other's from its files.
func (h *agentHandler) attachOutput(c *containerRequest) error {
	if !h.sessions.begin() {
		return errTooMany
	}
	defer h.sessions.end()
	if s := h.sessions.find(c.id()); s != nil {
		c.done()
		out := s.watch()
		defer s.unwatch(out)
		if err := serveOutput(c.r.Context(), c.w, c.media, out); err != nil {
			h.Log.Info("a stream of output was left", "container", c.id(), "why", err)
		}
		return nil
	}
	found, err := h.look(c.r.Context(), c.about)
	switch {
	case err != nil:
		return err
	case found.GetPhase() != keeper.Container_RUNNING:
		return refusal{http.StatusInternalServerError, "Container '" + printedID(c.about) + "' does not run"}
	}
	c.done()
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	out := make(chan *agentv1.ProcessIO)
	files := h.filesOf(ctx, found) // what is there when the answer begins is not told
	go h.follow(ctx, found, files, out)
	if err := serveOutput(ctx, c.w, c.media, out); err != nil {
		h.Log.Info("a stream of output was left", "container", found.GetContainerId(), "why", err)
	}
	return nil
}

// filesOf opens a container's files of output at their present ends.
func (h *agentHandler) filesOf(ctx context.Context, c *keeper.Container) []*followed {
	files := []*followed{
		{h: h, path: filepath.Join(c.GetSandbox(), "stdout"), of: agentv1.ProcessIO_Data_STDOUT},
		{h: h, path: filepath.Join(c.GetSandbox(), "stderr"), of: agentv1.ProcessIO_Data_STDERR},
	}
	for _, f := range files {
		f.open(ctx)
		f.at = f.size
	}
	return files
}

// follow tells what is added to a container's files until it has ended, and closes out.
func (h *agentHandler) follow(ctx context.Context, c *keeper.Container, files []*followed, out chan<- *agentv1.ProcessIO) {
	defer close(out)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = h.Containers.Wait(ctx, c.GetContainerId()) // if isolated is away, the stream ends as well
	}()
	for _, f := range files {
		defer f.close()
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for look, over := 1, false; !over; look++ {
		select {
		case <-ctx.Done():
			return
		case <-ended: // all that it wrote is in its files
			over = true
		case <-tick.C:
		}
		for _, f := range files {
			if !f.tell(ctx, out, over || look%reopenPerLook == 0) {
				return
			}
		}
	}
}

// followed is one file of output; when it is full, another takes its name.
type followed struct {
	h        *agentHandler
	path     string
	of       agentv1.ProcessIO_Data_Type
	file     *os.File
	at, size int64
}

// open opens what has the name now, if it is another file; it says whether it is.
func (f *followed) open(ctx context.Context) bool {
	file, info, err := f.h.Containers.Open(ctx, f.path)
	if err != nil {
		return false
	}
	if f.file != nil {
		old, errOld := f.file.Stat()
		now, errNow := file.Stat()
		if errOld == nil && errNow == nil && os.SameFile(old, now) {
			file.Close()
			return false
		}
	}
	f.close()
	f.file, f.at, f.size = file, 0, info.GetSize()
	return true
}

func (f *followed) close() {
	if f.file != nil {
		f.file.Close()
	}
}

// tell sends all there is; false: nobody listens.
func (f *followed) tell(ctx context.Context, out chan<- *agentv1.ProcessIO, reopen bool) bool {
	for {
		if !f.rest(ctx, out) {
			return false
		}
		if !reopen && f.file != nil || !f.open(ctx) {
			return true
		}
	}
}

func (f *followed) rest(ctx context.Context, out chan<- *agentv1.ProcessIO) bool {
	if f.file == nil {
		return true
	}
	if info, err := f.file.Stat(); err == nil && info.Size() < f.at {
		f.at = 0 // its task cut it short
	}
	for {
		buf := make([]byte, outputChunk)
		n, err := f.file.ReadAt(buf, f.at)
		if f.at += int64(n); n > 0 {
			select {
			case out <- outputOf(f.of, buf[:n]):
			case <-ctx.Done():
				return false
			}
		}
		if err != nil || n == 0 {
			return true
		}
	}
}

// isRecordIO says whether a request's body is a stream of records.
func isRecordIO(r *http.Request) bool {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && media == recordIO
}

// attachInput feeds a session with what the request's body brings.
func (h *agentHandler) attachInput(w http.ResponseWriter, r *http.Request) {
	values, given := r.Header["Message-Content-Type"]
	media := strings.Join(values, ",")
	switch {
	case !given:
		httpio.Error(w, http.StatusBadRequest, "Expecting 'Message-Content-Type' to be present with 'Content-Type: "+recordIO+"'")
		return
	case media != httpio.JSON && media != httpio.Protobuf:
		httpio.Error(w, http.StatusUnsupportedMediaType, "Expecting 'Message-Content-Type' of "+httpio.JSON+" or "+httpio.Protobuf)
		return
	}
	if m, ok := negotiateStream(r); !ok || m.streaming {
		httpio.Error(w, http.StatusNotAcceptable, "Expecting 'Accept' to allow 'application/json' or 'application/x-protobuf'")
		return
	}
	if !h.sessions.begin() {
		h.refuseContainer(w, r, errTooMany)
		return
	}
	defer h.sessions.end()
	control := http.NewResponseController(w)
	// A refusal does not wait for the rest of what is sent.
	if err := control.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		h.Log.Warn("a stream of input cannot be answered early", "error", err)
	}
	if err := control.SetReadDeadline(time.Now().Add(inputWait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		h.Log.Warn("a stream of input has no time limit", "error", err)
	}
	in := newInputs(r.Body, media)
	call, err := in.first()
	if err == nil {
		err = h.feed(r, control, call, in)
	}
	switch {
	case errors.Is(err, errInput):
		err = refusal{http.StatusBadRequest, err.Error()}
	case errors.Is(err, errOver):
		err = refusal{http.StatusInternalServerError, "Failed to attach to the input: " + err.Error()}
	case err == nil:
		httpio.Empty(w, http.StatusOK)
	}
	if err == nil {
		return
	}
	w.Header().Set("Connection", "close")
	h.refuseContainer(w, r, err)
	_ = control.SetReadDeadline(time.Unix(1, 0)) // else the connection is read on after the answer
}

// inputWait is how long the first record of a stream of input may take.
const inputWait = 60 * time.Second

// feed finds the session that a stream of input is for, and gives it all that comes.
func (h *agentHandler) feed(r *http.Request, control *http.ResponseController, call *agentv1.Call, in *inputs) error {
	id := call.GetAttachContainerInput().GetContainerId()
	if err := h.allowed(r.Context(), call, nodedoc.RoleOperator); err != nil {
		return err
	}
	s := h.sessions.find(nestedID(id))
	if s == nil {
		found, err := h.look(r.Context(), id)
		switch {
		case err != nil:
			return err
		case found.GetPhase() >= keeper.Container_ENDED:
			return errOver
		}
		return refusal{http.StatusInternalServerError, "Container '" + printedID(id) + "' has no standard input to attach to: it was not begun by LAUNCH_NESTED_CONTAINER_SESSION"}
	}
	if !s.attach() {
		return refusal{http.StatusConflict, "Container '" + printedID(id) + "' is given input by another caller already"}
	}
	defer s.detach()
	auth.Changed(r.Context(), call.GetType().String(), printedID(id), "attached")
	if err := control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	ended, watching := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-s.over: // whoever still sends is told now
			_ = control.SetReadDeadline(time.Unix(1, 0))
		case <-ended:
		}
	}()
	err := s.feed(in)
	close(ended)
	<-watching
	select {
	case <-s.over:
		return nil // it took what came before its end
	default:
		return err
	}
}
