package operator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/clusterd/httpio"
)

const (
	firstInput = `{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"CONTAINER_ID","container_id":{"value":"c","parent":{"value":"p"}}}}`
	dataInput  = `{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"PROCESS_IO","process_io":{"type":"DATA","data":{"type":"STDIN","data":"%s"}}}}`
	sizeInput  = `{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"PROCESS_IO","process_io":{"type":"CONTROL","control":{"type":"TTY_INFO","tty_info":{"window_size":{"rows":3,"columns":5}}}}}}`
	beatInput  = `{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"PROCESS_IO","process_io":{"type":"CONTROL","control":{"type":"HEARTBEAT","heartbeat":{"interval":{"nanoseconds":30000000000}}}}}}`
)

func recordsOf(texts ...string) io.Reader {
	var out []byte
	for _, text := range texts {
		out = recordio.Append(out, []byte(text))
	}
	return bytes.NewReader(out)
}

// Each kind of record is understood; empty data is the input's end.
func TestInputs(t *testing.T) {
	in := newInputs(recordsOf(firstInput, fmt.Sprintf(dataInput, "aGk="), beatInput, sizeInput, fmt.Sprintf(dataInput, "")), httpio.JSON)
	call, err := in.first()
	if err != nil || call.GetAttachContainerInput().GetContainerId().GetParent().GetValue() != "p" {
		t.Fatal(call, err)
	}
	want := []input{{data: []byte("hi")}, {}, {size: &mesosv1.TTYInfo_WindowSize{Rows: proto.Uint32(3), Columns: proto.Uint32(5)}}, {end: true}}
	for i, w := range want {
		got, err := in.process()
		if err != nil || string(got.data) != string(w.data) || got.end != w.end || !proto.Equal(got.size, w.size) {
			t.Errorf("record %d: %v %v", i, got, err)
		}
	}
	if _, err := in.process(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

// What a stream of input must not say is the caller's fault, by name.
func TestInputsAreRefused(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{fmt.Sprintf(dataInput, ""), "to be CONTAINER_ID"},
		{`{"type":"GET_HEALTH"}`, "not GET_HEALTH"},
		{`{"type":"ATTACH_CONTAINER_INPUT"}`, "'attach_container_input'"},
		{`{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"CONTAINER_ID"}}`, "container_id"},
		{`{`, "Failed to parse body"},
	} {
		if _, err := newInputs(recordsOf(test.text), httpio.JSON).first(); !errors.Is(err, errInput) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s first: %v", test.text, err)
		}
	}
	for _, test := range []struct{ text, want string }{
		{firstInput, "to be PROCESS_IO"},
		{`{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"PROCESS_IO"}}`, "to be PROCESS_IO"},
		{strings.Replace(fmt.Sprintf(dataInput, ""), "STDIN", "STDOUT", 1), "DATA of STDIN"},
		{strings.Replace(sizeInput, "window_size", "other", 1), "window_size"},
	} {
		if _, err := newInputs(recordsOf(test.text), httpio.JSON).process(); !errors.Is(err, errInput) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s later: %v", test.text, err)
		}
	}
	if _, err := newInputs(strings.NewReader(fmt.Sprintf("%d\n", maxInput+1)), httpio.JSON).first(); !errors.Is(err, errInput) || !errors.Is(err, recordio.ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
	if _, err := newInputs(strings.NewReader("x"), httpio.JSON).first(); !errors.Is(err, errInput) {
		t.Errorf("no length: %v", err)
	}
}

// What goes out can be read again, in both encodings.
func TestFrame(t *testing.T) {
	p := outputOf(agentv1.ProcessIO_Data_STDERR, []byte{0, 0xff, '\n'})
	for _, media := range []string{httpio.JSON, httpio.Protobuf} {
		raw, err := recordio.NewReader(bytes.NewReader(frame(media, p)), maxInput).Next()
		if err != nil {
			t.Fatal(err)
		}
		got := &agentv1.ProcessIO{}
		if err := httpio.Decode(media, raw, got); err != nil || !proto.Equal(got, p) {
			t.Errorf("%s: %v %v", media, got, err)
		}
	}
	if got := string(frame(httpio.JSON, ioHeartbeat())); !strings.Contains(got, `"interval":{"nanoseconds":30000000000}`) || !strings.Contains(got, `"type":"CONTROL"`) {
		t.Error(got)
	}
}

// Whatever a stream of input is made of, its reader ends, takes no record beyond its bound,
// and calls nothing an input that is none.
func FuzzInputs(f *testing.F) {
	for _, media := range []bool{true, false} {
		for _, texts := range [][]string{{firstInput}, {firstInput, fmt.Sprintf(dataInput, "aGk=")}, {firstInput, sizeInput, beatInput}, {beatInput}, {"{}"}, {""}} {
			raw, _ := io.ReadAll(recordsOf(texts...))
			f.Add(media, raw)
		}
		call, _ := proto.Marshal(&agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_INPUT.Enum(), AttachContainerInput: &agentv1.Call_AttachContainerInput{
			Type: agentv1.Call_AttachContainerInput_CONTAINER_ID.Enum(), ContainerId: &mesosv1.ContainerID{Value: proto.String("c")},
		}})
		f.Add(media, recordio.Append(recordio.Append(nil, call), call))
	}
	f.Fuzz(func(t *testing.T, asJSON bool, raw []byte) {
		media := httpio.Protobuf
		if asJSON {
			media = httpio.JSON
		}
		in := newInputs(bytes.NewReader(raw), media)
		call, err := in.first()
		if err != nil {
			return
		}
		if call.GetAttachContainerInput().GetContainerId().GetValue() == "" {
			t.Fatalf("%q is for no container", raw)
		}
		for {
			got, err := in.process()
			if err != nil {
				return
			}
			if len(got.data) > maxInput || got.end && len(got.data) > 0 || got.size != nil && (got.end || got.data != nil) {
				t.Fatalf("%q: %v", raw, got)
			}
		}
	})
}
