package operator

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"syscall"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// The calls of an agent that are about one container: those that begin one inside of a
// running one, wait for it, end it and remove it, and the streams of its input and output.
// isolated alone remembers such containers; here they are translated.

const recordIO = "application/recordio"

// mediaOf is how an answer is written: its Content-Type and that of each message.
type mediaOf struct {
	content, message string
	streaming        bool // content is RecordIO by name
}

// negotiateStream picks how a stream is written: RecordIO by name, or as Mesos did before
// 1.2, under the name of what is in the records.
func negotiateStream(r *http.Request) (mediaOf, bool) {
	media, ok := httpio.Negotiate(r)
	_, given := r.Header["Message-Accept"]
	switch {
	case ok:
		return mediaOf{content: media, message: media}, !given
	case !strings.Contains(strings.ToLower(strings.Join(r.Header.Values("Accept"), ",")), recordIO):
		return mediaOf{}, false
	}
	media, ok = httpio.Negotiate(&http.Request{Header: http.Header{"Accept": r.Header["Message-Accept"]}})
	return mediaOf{recordIO, media, true}, ok
}

// containerAnswer is how such a call is answered.
type containerAnswer struct {
	role    string
	streams bool // its answer is a stream
	nested  bool // Mesos' older name: it needs a parent
	answer  func(*agentHandler, *containerRequest) error
}

var containerAnswers = map[agentv1.Call_Type]containerAnswer{
	agentv1.Call_LAUNCH_CONTAINER:                {role: nodedoc.RoleOperator, answer: (*agentHandler).launchContainer},
	agentv1.Call_LAUNCH_NESTED_CONTAINER:         {role: nodedoc.RoleOperator, nested: true, answer: (*agentHandler).launchContainer},
	agentv1.Call_WAIT_CONTAINER:                  {role: nodedoc.RoleReader, answer: (*agentHandler).waitContainer},
	agentv1.Call_WAIT_NESTED_CONTAINER:           {role: nodedoc.RoleReader, nested: true, answer: (*agentHandler).waitContainer},
	agentv1.Call_KILL_CONTAINER:                  {role: nodedoc.RoleOperator, answer: (*agentHandler).killContainer},
	agentv1.Call_KILL_NESTED_CONTAINER:           {role: nodedoc.RoleOperator, nested: true, answer: (*agentHandler).killContainer},
	agentv1.Call_REMOVE_CONTAINER:                {role: nodedoc.RoleOperator, answer: (*agentHandler).removeContainer},
	agentv1.Call_REMOVE_NESTED_CONTAINER:         {role: nodedoc.RoleOperator, nested: true, answer: (*agentHandler).removeContainer},
	agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION: {role: nodedoc.RoleOperator, nested: true, streams: true, answer: (*agentHandler).session},
	agentv1.Call_ATTACH_CONTAINER_OUTPUT:         {role: nodedoc.RoleOperator, streams: true, answer: (*agentHandler).attachOutput},
}

// containerRequest is one such call.
type containerRequest struct {
	*agentv1.Call
	w     http.ResponseWriter
	r     *http.Request
	media mediaOf
	about *mesosv1.ContainerID
	done  func() // the call's body is not needed any more
}

// id is what isolated calls the container: one in a pod, or a task's, has its own.
func (c *containerRequest) id() string { return nestedID(c.about) }

func nestedID(id *mesosv1.ContainerID) string {
	if id.GetParent() == nil {
		return id.GetValue()
	}
	return agent.NestedID(id.GetParent().GetValue(), id.GetValue())
}

// container answers a call about a container.
func (h *agentHandler) container(w http.ResponseWriter, r *http.Request, call *agentv1.Call, kind containerAnswer, done func()) {
	about, _ := containerCall(call)
	c := &containerRequest{Call: call, w: w, r: r, about: about.id, done: done}
	if why := invalidContainer(about.id, kind.nested); why != "" {
		httpio.Error(w, http.StatusBadRequest, "Failed to validate agent::Call: "+why)
		return
	}
	var ok bool
	if c.media, ok = negotiateStream(r); !ok || c.media.streaming && !kind.streams {
		httpio.Error(w, http.StatusNotAcceptable, "Expecting 'Accept' to allow 'application/json' or 'application/x-protobuf', or of a stream 'application/recordio' with 'Message-Accept' to allow one of them; without 'application/recordio', 'Message-Accept' must not be there")
		return
	}
	err := h.allowed(r.Context(), call, kind.role)
	if err == nil {
		err = kind.answer(h, c)
		if kind.role != nodedoc.RoleReader {
			audit(r.Context(), call.GetType().String(), printedID(about.id), err)
		}
	}
	h.refuseContainer(w, r, err)
}

// allowed says why a caller may not make a call.
func (h *agentHandler) allowed(ctx context.Context, call *agentv1.Call, role string) error {
	name := call.GetType().String()
	about, _ := containerCall(call)
	if from := auth.PrincipalOf(ctx); !from.May(role) {
		return refuse(ctx, name, printedID(about.id), "The call "+name+" needs the role '"+role+"', and "+from.String()+" does not have it")
	}
	seen, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	why, err := h.forbidden(seen, call)
	if err == nil && why != "" {
		return refuse(ctx, name, printedID(about.id), why)
	}
	return err
}

// refuseContainer answers why a call was not carried out; nil: it was answered.
func (h *agentHandler) refuseContainer(w http.ResponseWriter, r *http.Request, err error) {
	var refused refusal
	switch {
	case err == nil, r.Context().Err() != nil:
	case errors.As(err, &refused):
		httpio.Error(w, refused.status, refused.text)
	default:
		httpio.Error(w, http.StatusServiceUnavailable, "The container keeper of this agent cannot be asked: "+err.Error())
	}
}

// invalidContainer says what an id lacks, "" if nothing.
func invalidContainer(id *mesosv1.ContainerID, nested bool) string {
	switch {
	case id.GetValue() == "":
		return "Expecting 'container_id' to be present, with a 'value'"
	case nested && id.GetParent().GetValue() == "":
		return "Expecting 'container_id.parent' to be present, with a 'value'"
	}
	return ""
}

// printedID is an id as Mesos prints it: the outermost first.
func printedID(id *mesosv1.ContainerID) string {
	if id.GetParent() == nil {
		return id.GetValue()
	}
	return printedID(id.GetParent()) + "." + id.GetValue()
}

func (h *agentHandler) launchContainer(c *containerRequest) error {
	n := agent.Nested{Parent: c.about.GetParent().GetValue(), Name: c.about.GetValue(), Command: c.GetLaunchNestedContainer().GetCommand(), Container: c.GetLaunchNestedContainer().GetContainer()}
	if l := c.LaunchContainer; l != nil {
		n.Command, n.Container = l.GetCommand(), l.GetContainer()
		if len(l.GetResources()) > 0 || len(l.GetLimits()) > 0 {
			return refusal{http.StatusBadRequest, "'launch_container.resources' and 'limits' cannot be given: a nested container has those of its parent"}
		}
	}
	switch {
	case n.Parent == "":
		return refusal{http.StatusBadRequest, "Container '" + n.Name + "' has no parent: containers that stand alone are not known here; launch a task, or inside of one by 'container_id.parent'"}
	case n.Container.GetTtyInfo() != nil:
		return refusal{http.StatusBadRequest, "'container.tty_info' is for sessions: use LAUNCH_NESTED_CONTAINER_SESSION"}
	}
	switch err := h.Containers.Launch(c.r.Context(), n); {
	case errors.Is(err, fs.ErrExist):
		httpio.Empty(c.w, http.StatusAccepted)
	case errors.Is(err, fs.ErrInvalid):
		return refusal{http.StatusBadRequest, "Container '" + printedID(c.about) + "' cannot be launched: " + err.Error()}
	case err != nil:
		return err
	default:
		httpio.Empty(c.w, http.StatusOK)
	}
	return nil
}

// look finds a container: nested, or a task's own, which of a pod has a parent too.
func (h *agentHandler) look(ctx context.Context, id *mesosv1.ContainerID) (*keeper.Container, error) {
	c, err := h.Containers.Look(ctx, nestedID(id))
	if errors.Is(err, fs.ErrNotExist) && id.GetParent() != nil {
		if c, err = h.Containers.Look(ctx, id.GetValue()); err == nil && c.GetNested() {
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unknownContainer(id)
	}
	return c, err
}

func unknownContainer(id *mesosv1.ContainerID) error {
	return refusal{http.StatusNotFound, "Container '" + printedID(id) + "' cannot be found"}
}

func (h *agentHandler) waitContainer(c *containerRequest) error {
	if !h.sessions.begin() {
		return errTooMany
	}
	defer h.sessions.end()
	found, err := h.look(c.r.Context(), c.about)
	if err != nil {
		return err
	}
	c.done() // it may be long
	found, err = h.Containers.Wait(c.r.Context(), found.GetContainerId())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return unknownContainer(c.about)
	case err != nil:
		return err
	}
	resp := &agentv1.Response{Type: agentv1.Response_WAIT_CONTAINER.Enum(), WaitContainer: wordEnd(found)}
	if e := resp.WaitContainer; c.GetType() == agentv1.Call_WAIT_NESTED_CONTAINER {
		resp = &agentv1.Response{Type: agentv1.Response_WAIT_NESTED_CONTAINER.Enum(), WaitNestedContainer: &agentv1.Response_WaitNestedContainer{
			ExitStatus: e.ExitStatus, State: e.State, Reason: e.Reason, Limitation: e.Limitation, Message: e.Message,
		}}
	}
	return httpio.Message(c.w, c.r, c.media.message, resp)
}

var errTooMany = refusal{http.StatusServiceUnavailable, "Too many sessions, streams and waiting calls at this agent, try again when some have ended"}

// wordEnd tells a container's end; the status is as wait(2) gives it.
func wordEnd(c *keeper.Container) *agentv1.Response_WaitContainer {
	out := &agentv1.Response_WaitContainer{}
	if c.GetPhase() == keeper.Container_ENDED && c.GetFailure() == keeper.Container_NONE {
		out.ExitStatus = proto.Int32(int32(c.GetWaitStatus()))
	}
	switch {
	case c.GetLimitation() == keeper.Container_MEMORY:
		out.State, out.Reason = mesosv1.TaskState_TASK_FAILED.Enum(), mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY.Enum()
	case c.GetLimitation() == keeper.Container_DISK:
		out.State, out.Reason = mesosv1.TaskState_TASK_FAILED.Enum(), mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK.Enum()
	case c.GetPhase() == keeper.Container_FAILED:
		out.State, out.Reason = mesosv1.TaskState_TASK_FAILED.Enum(), mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED.Enum()
	}
	if c.GetMessage() != "" {
		out.Message = proto.String(c.GetMessage())
	}
	return out
}

func (h *agentHandler) killContainer(c *containerRequest) error {
	signal := int32(syscall.SIGKILL)
	if k := c.KillContainer; k != nil && k.Signal != nil {
		signal = k.GetSignal()
	}
	if k := c.KillNestedContainer; k != nil && k.Signal != nil {
		signal = k.GetSignal()
	}
	return h.done(c, h.Containers.Signal(c.r.Context(), c.id(), signal))
}

func (h *agentHandler) removeContainer(c *containerRequest) error {
	id := c.id()
	ctx, cancel := context.WithTimeout(c.r.Context(), viewTime)
	defer cancel()
	if known, err := h.Containers.Look(ctx, id); err == nil && (known.GetPhase() < keeper.Container_ENDED || !known.GetNested()) {
		return refusal{http.StatusInternalServerError, "Container '" + printedID(c.about) + "' has not terminated yet, or is a task's: kill it first, or the task"}
	}
	return h.done(c, h.Containers.Remove(c.r.Context(), id))
}

// done answers a call that has no more to say than that it was carried out.
func (h *agentHandler) done(c *containerRequest, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return unknownContainer(c.about)
	case errors.Is(err, fs.ErrInvalid):
		return refusal{http.StatusBadRequest, err.Error()}
	case err != nil:
		return err
	}
	httpio.Empty(c.w, http.StatusOK)
	return nil
}

// nestedContainers adds what operators began inside of running ones, and still runs.
func (h *agentHandler) nestedContainers(c *agentCall, v agent.View, to *agentv1.Response_GetContainers) error {
	list, err := h.Containers.Nested(c.ctx)
	if err != nil {
		return err
	}
	above := map[string]string{} // of containers of pods' tasks
	for _, t := range v.Tasks {
		above[t.ContainerID] = t.Parent
	}
	for _, n := range list {
		parent := &mesosv1.ContainerID{Value: proto.String(n.GetParent())}
		if pod := above[n.GetParent()]; pod != "" {
			parent.Parent = &mesosv1.ContainerID{Value: proto.String(pod)}
		}
		id := &mesosv1.ContainerID{Value: proto.String(strings.TrimPrefix(n.GetContainerId(), agent.NestedID(n.GetParent(), ""))), Parent: parent}
		status := &mesosv1.ContainerStatus{ContainerId: id}
		if n.GetPid() > 0 {
			status.ExecutorPid = proto.Uint32(uint32(n.GetPid()))
		}
		to.Containers = append(to.Containers, &agentv1.Response_GetContainers_Container{
			FrameworkId: frameworkID(n.GetFrameworkId()), ExecutorId: &mesosv1.ExecutorID{Value: proto.String(n.GetExecutorId())},
			ContainerId: id, ContainerStatus: status,
		})
	}
	return nil
}
