package operator

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/clusterd/httpio"
)

// maxInput is the longest record of a stream of input. Clients send what somebody types,
// or chunks of a few KiB.
const maxInput = 1 << 20

// errInput is a stream of input that says what cannot be done: the caller's fault.
var errInput = errors.New("stream of input")

// inputs reads a stream of calls ATTACH_CONTAINER_INPUT.
type inputs struct {
	r     *recordio.Reader
	media string // of each record
}

func newInputs(r io.Reader, media string) *inputs {
	return &inputs{recordio.NewReader(r, maxInput), media}
}

// next gives one call; io.EOF is the stream's end between two records. Errors that wrap
// errInput are the caller's fault.
func (in *inputs) next() (*agentv1.Call_AttachContainerInput, *agentv1.Call, error) {
	raw, err := in.r.Next()
	switch {
	case errors.Is(err, recordio.ErrTooLong), errors.Is(err, recordio.ErrFraming):
		return nil, nil, fmt.Errorf("%w: %w", errInput, err)
	case errors.Is(err, io.EOF):
		return nil, nil, io.EOF
	case err != nil:
		return nil, nil, fmt.Errorf("%w: it broke off: %w", errInput, err)
	}
	call := &agentv1.Call{}
	if err := httpio.Decode(in.media, raw, call); err != nil {
		return nil, nil, fmt.Errorf("%w: Failed to parse body into agent::Call: %w", errInput, err)
	}
	if call.GetType() != agentv1.Call_ATTACH_CONTAINER_INPUT || call.AttachContainerInput == nil {
		return nil, nil, fmt.Errorf("%w: Expecting each record to be a call 'ATTACH_CONTAINER_INPUT' with 'attach_container_input', not %s", errInput, call.GetType())
	}
	return call.AttachContainerInput, call, nil
}

// first gives the first call, which says for which container the stream is.
func (in *inputs) first() (*agentv1.Call, error) {
	m, call, err := in.next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: Expecting a first record", errInput)
	case err != nil:
		return nil, err
	case m.GetType() != agentv1.Call_AttachContainerInput_CONTAINER_ID:
		return nil, fmt.Errorf("%w: Expecting 'attach_container_input.type' of the first record to be CONTAINER_ID", errInput)
	case m.GetContainerId().GetValue() == "":
		return nil, fmt.Errorf("%w: Expecting 'attach_container_input.container_id' to be present", errInput)
	}
	return call, nil
}

// input is what one record wants: bytes for the standard input, its end, or a size of the
// terminal. All empty: nothing, to keep the connection alive.
type input struct {
	data []byte
	end  bool
	size *mesosv1.TTYInfo_WindowSize
}

// process gives the next record after the first.
func (in *inputs) process() (input, error) {
	m, _, err := in.next()
	if err != nil {
		return input{}, err
	}
	p := m.GetProcessIo()
	switch {
	case m.GetType() != agentv1.Call_AttachContainerInput_PROCESS_IO || p == nil:
		return input{}, fmt.Errorf("%w: Expecting 'attach_container_input.type' to be PROCESS_IO, with 'process_io'", errInput)
	case p.GetType() == agentv1.ProcessIO_DATA && p.GetData().GetType() == agentv1.ProcessIO_Data_STDIN:
		return input{data: p.GetData().GetData(), end: len(p.GetData().GetData()) == 0}, nil
	case p.GetType() == agentv1.ProcessIO_CONTROL && p.GetControl().GetType() == agentv1.ProcessIO_Control_HEARTBEAT:
		return input{}, nil
	case p.GetType() == agentv1.ProcessIO_CONTROL && p.GetControl().GetType() == agentv1.ProcessIO_Control_TTY_INFO && p.GetControl().GetTtyInfo().GetWindowSize() != nil:
		return input{size: p.GetControl().GetTtyInfo().GetWindowSize()}, nil
	}
	return input{}, fmt.Errorf("%w: Expecting 'process_io' to be DATA of STDIN, or CONTROL of HEARTBEAT or TTY_INFO with 'window_size'", errInput)
}

// frame words one record of output.
func frame(media string, p *agentv1.ProcessIO) []byte {
	if media == httpio.Protobuf {
		raw, _ := proto.MarshalOptions{AllowPartial: true}.Marshal(p) // of our own making
		return recordio.Append(nil, raw)
	}
	return recordio.Append(nil, mesosjson.Marshal(p))
}

func outputOf(t agentv1.ProcessIO_Data_Type, data []byte) *agentv1.ProcessIO {
	return &agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: t.Enum(), Data: data}}
}

func ioHeartbeat() *agentv1.ProcessIO {
	return &agentv1.ProcessIO{Type: agentv1.ProcessIO_CONTROL.Enum(), Control: &agentv1.ProcessIO_Control{
		Type:      agentv1.ProcessIO_Control_HEARTBEAT.Enum(),
		Heartbeat: &agentv1.ProcessIO_Control_Heartbeat{Interval: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(ioHeartbeatEvery))}},
	}}
}
