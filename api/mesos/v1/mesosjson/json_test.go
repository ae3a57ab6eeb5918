package mesosjson_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

func TestMarshal(t *testing.T) {
	for _, c := range []struct {
		name string
		m    proto.Message
		want string
	}{
		{"enum and string", &scheduler.Event{
			Type:  scheduler.Event_ERROR.Enum(),
			Error: &scheduler.Event_Error{Message: new("a\n\"b\"\\\x01\x7f ü \xff <&>")},
		}, `{"type":"ERROR","error":{"message":"a\n\"b\"\\\u0001\u007f ü ` + "\ufffd" + ` <&>"}}`},
		{
			"defaults are written, deprecated ones are not", &mesosv1.FrameworkInfo{User: new("root"), Name: new("x")},
			`{"user":"root","name":"x","failover_timeout":0.0,"checkpoint":false}`,
		},
		{
			"deprecated but set", &mesosv1.FrameworkInfo{User: new("root"), Name: new("x"), Role: new("*")},
			`{"user":"root","name":"x","failover_timeout":0.0,"checkpoint":false,"role":"*"}`,
		},
		{"64 bits, bytes, double", &mesosv1.TaskStatus{
			TaskId:          &mesosv1.TaskID{Value: new("t")},
			State:           mesosv1.TaskState_TASK_RUNNING.Enum(),
			Uuid:            []byte{0xff, 0xfe, 0},
			Timestamp:       proto.Float64(1700000000.25),
			UnreachableTime: &mesosv1.TimeInfo{Nanoseconds: proto.Int64(math.MaxInt64)},
		}, `{"task_id":{"value":"t"},"state":"TASK_RUNNING","timestamp":1700000000.25,"uuid":"//4A",` +
			`"unreachable_time":{"nanoseconds":9223372036854775807}}`},
		{"map", &mesosv1.TaskInfo{
			Name: new("n"), TaskId: &mesosv1.TaskID{Value: new("t")}, AgentId: &mesosv1.AgentID{Value: new("a")},
			Limits: map[string]*mesosv1.Value_Scalar{
				"mem":  {Value: proto.Float64(math.Inf(1))},
				"cpus": {Value: proto.Float64(0.1)},
			},
		}, `{"name":"n","task_id":{"value":"t"},"agent_id":{"value":"a"},` +
			`"limits":{"cpus":{"value":0.1},"mem":{"value":"Infinity"}}}`},
		{
			"lists", &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: new("a")}, {Key: new("b"), Value: new("")}}},
			`{"labels":[{"key":"a"},{"key":"b","value":""}]}`,
		},
		{"empty list", &mesosv1.Labels{}, `{}`},
		{
			"duration", &master.Call_DrainAgent{AgentId: &mesosv1.AgentID{Value: new("a")}, MaxGracePeriod: durationpb.New(90 * time.Second)},
			`{"agent_id":{"value":"a"},"max_grace_period":{"seconds":90},"mark_gone":false}`,
		},
		{"number of an unknown enum value", &mesosv1.Value{Type: mesosv1.Value_Type(77).Enum()}, `{"type":77}`},
		{"small and large", &mesosv1.Value_Scalar{Value: proto.Float64(1e-9)}, `{"value":1e-09}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(mesosjson.Marshal(c.m)); got != c.want {
				t.Errorf("have %s\nwant %s", got, c.want)
			}
		})
	}
}

// A strict client reads everything on the scheduler's stream with protojson.
func TestMarshalReadsWithProtojson(t *testing.T) {
	e := &scheduler.Event{
		Type: scheduler.Event_UPDATE.Enum(),
		Update: &scheduler.Event_Update{Status: &mesosv1.TaskStatus{
			TaskId:          &mesosv1.TaskID{Value: new("t")},
			State:           mesosv1.TaskState_TASK_GONE.Enum(),
			Uuid:            []byte("0123456789abcdef"),
			Timestamp:       proto.Float64(12),
			UnreachableTime: &mesosv1.TimeInfo{Nanoseconds: proto.Int64(1 << 60)},
		}},
	}
	var back scheduler.Event
	if err := protojson.Unmarshal(mesosjson.Marshal(e), &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(e, &back, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

func TestUnmarshal(t *testing.T) {
	for _, c := range []struct {
		name, in string
		m        proto.Message
		want     string // prototext
	}{
		{
			"plain", `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n","roles":["a","b"]}}}`, &scheduler.Call{},
			`type:SUBSCRIBE subscribe{framework_info{user:"u" name:"n" roles:"a" roles:"b"}}`,
		},
		{
			"unknown fields", `{"type":"DECLINE","Filters":{"a":[1,{"b":null}],"c":"x"},"decline":{"offer_ids":[]}}`, &scheduler.Call{},
			`type:DECLINE decline{}`,
		},
		{"camel case is unknown", `{"frameworkId":{"value":"x"},"type":"REVIVE"}`, &scheduler.Call{}, `type:REVIVE`},
		{"null is unset", ` { "type" : "REVIVE" , "framework_id" : null } `, &scheduler.Call{}, `type:REVIVE`},
		{"null elements", `{"labels":[null,{"key":"a","value":null}]}`, &mesosv1.Labels{}, `labels{key:"a"}`},
		{"bool as text", `{"value":"x","cache":"true","extract":"false"}`, &mesosv1.CommandInfo_URI{}, `value:"x" cache:true extract:false`},
		{"numbers as text", `{"nanoseconds":"9007199254740993"}`, &mesosv1.TimeInfo{}, `nanoseconds:9007199254740993`},
		{"64 bits are exact", `{"nanoseconds":9007199254740993}`, &mesosv1.TimeInfo{}, `nanoseconds:9007199254740993`},
		{"whole doubles for integers", `{"begin":31000.0,"end":3.2e4}`, &mesosv1.Value_Range{}, `begin:31000 end:32000`},
		{"double as text", `{"value":"1.5"}`, &mesosv1.Value_Scalar{}, `value:1.5`},
		{"infinity", `{"value":"Infinity"}`, &mesosv1.Value_Scalar{}, `value:inf`},
		{"minus infinity", `{"value":"-Infinity"}`, &mesosv1.Value_Scalar{}, `value:-inf`},
		{"unknown enum, optional", `{"type":"NEWER_THAN_US"}`, &mesosv1.FrameworkInfo_Capability{}, ``},
		{"unknown enum, number", `{"type":4711}`, &mesosv1.FrameworkInfo_Capability{}, ``},
		{"enum by number", `{"type":5}`, &mesosv1.FrameworkInfo_Capability{}, `type:PARTITION_AWARE`},
		{
			"map", `{"name":"n","task_id":{"value":"t"},"agent_id":{"value":"a"},"limits":{"cpus":{"value":1},"mem":null}}`, &mesosv1.TaskInfo{},
			`name:"n" task_id{value:"t"} agent_id{value:"a"} limits{key:"cpus" value{value:1}}`,
		},
		{"one value for a list", `{"offer_ids":{"value":"o"}}`, &scheduler.Call_Decline{}, `offer_ids{value:"o"}`},
		{"last one counts", `{"value":"a","value":"b"}`, &mesosv1.TaskID{}, `value:"b"`},
		{"escapes", `{"value":"\"\\\/\b\f\n\r\t\u00fc\ud83d\ude00\ud800x"}`, &mesosv1.TaskID{}, `value:"\"\\/\b\f\n\r\tü😀�x"`},
		{"not UTF-8", "{\"value\":\"a\xffb\"}", &mesosv1.TaskID{}, `value:"a�b"`},
		{
			"base64 of the other alphabet", `{"agent_id":{"value":"a"},"executor_id":{"value":"e"},"data":"__4A"}`, &scheduler.Call_Message{},
			`agent_id{value:"a"} executor_id{value:"e"} data:"\xff\xfe\x00"`,
		},
		{
			"duration, message", `{"agent_id":{"value":"a"},"max_grace_period":{"seconds":600}}`, &master.Call_DrainAgent{},
			`agent_id{value:"a"} max_grace_period{seconds:600}`,
		},
		{
			"duration, protojson", `{"agent_id":{"value":"a"},"max_grace_period":"600.5s"}`, &master.Call_DrainAgent{},
			`agent_id{value:"a"} max_grace_period{seconds:600 nanos:500000000}`,
		},
		{
			"duration, words", `{"agent_id":{"value":"a"},"max_grace_period":"10mins"}`, &master.Call_DrainAgent{},
			`agent_id{value:"a"} max_grace_period{seconds:600}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := mesosjson.Unmarshal([]byte(c.in), c.m); err != nil {
				t.Fatal(err)
			}
			want := c.m.ProtoReflect().New().Interface()
			if err := prototext.Unmarshal([]byte(c.want), want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, c.m, protocmp.Transform()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestUnmarshalErrors(t *testing.T) {
	for _, c := range []struct {
		name, in string
		m        proto.Message
		want     string
	}{
		{"empty", ``, &scheduler.Call{}, "at byte 0: text ends where a JSON object is due"},
		{"not an object", `[]`, &scheduler.Call{}, "at byte 0: found '[' where a JSON object is due"},
		{"more after it", `{} x`, &scheduler.Call{}, "at byte 3: found 'x' where the end is due"},
		{"cut", `{"type":"SUB`, &scheduler.Call{}, "type: at byte 12: string without end"},
		{"comma", `{"type":"REVIVE",}`, &scheduler.Call{}, "at byte 17: found '}' where a name is due"},
		{"missing, deep", `{"type":"ACCEPT","accept":{"offer_ids":[{"value":"a"},{}]}}`, &scheduler.Call{}, "missing required field accept.offer_ids[1].value"},
		{"null where required", `{"value":null}`, &mesosv1.TaskID{}, "missing required field value"},
		{"unknown enum where required", `{"type":"STRANGE","name":"x"}`, &mesosv1.Resource{}, "missing required field type"},
		{"number for text", `{"value":5}`, &mesosv1.TaskID{}, "value: at byte 10: a number given for a string: wrong kind of value"},
		{"bool for number", `{"value":true}`, &mesosv1.Value_Scalar{}, "value: at byte 13: true given for a double: wrong kind of value"},
		{"object for text", `{"value":{}}`, &mesosv1.TaskID{}, "value: at byte 9: a single value is due: wrong kind of value"},
		{"text for object", `{"framework_id":"x"}`, &scheduler.Call{}, "framework_id: at byte 16: an object is due: wrong kind of value"},
		{"fraction for integer", `{"nanoseconds":1.5}`, &mesosv1.TimeInfo{}, `nanoseconds: at byte 18: "1.5" is no whole number of 64 bits: wrong kind of value`},
		{"too large", `{"begin":18446744073709551616,"end":1}`, &mesosv1.Value_Range{}, "no whole number of 64 bits from 0 up"},
		{"negative", `{"begin":-1,"end":1}`, &mesosv1.Value_Range{}, "no whole number of 64 bits from 0 up"},
		{"leading zero", `{"nanoseconds":012}`, &mesosv1.TimeInfo{}, "not a number"},
		{"hex as text", `{"value":"0x10"}`, &mesosv1.Value_Scalar{}, "is not a number"},
		{"bool as text", `{"value":"x","cache":"yes"}`, &mesosv1.CommandInfo_URI{}, `"yes" is neither true nor false`},
		{"raw newline", "{\"value\":\"a\nb\"}", &mesosv1.TaskID{}, "control character in a string"},
		{"bad duration", `{"agent_id":{"value":"a"},"max_grace_period":"soon"}`, &master.Call_DrainAgent{}, `duration "soon" is not a number with`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := mesosjson.Unmarshal([]byte(c.in), c.m)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("have %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestUnmarshalBounds(t *testing.T) {
	for name, in := range map[string]string{
		"depth, unknown field": `{"x":` + strings.Repeat("[", 200_000),
		"depth, known field":   strings.Repeat(`{"parent":`, 200_000),
		"values":               `{"labels":[` + strings.Repeat("{},", 300_000) + `{}]}`,
		"values, skipped":      `{"x":[` + strings.Repeat("0,", 300_000) + `0]}`,
	} {
		m := proto.Message(&mesosv1.Labels{})
		if name == "depth, known field" {
			m = &mesosv1.ContainerID{}
		}
		if err := mesosjson.Unmarshal([]byte(in), m); !errors.Is(err, mesosjson.ErrTooBig) {
			t.Errorf("%s: %.200v", name, err)
		}
	}
}

// What was read is written in a form that reads the same again.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		`{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n","failover_timeout":"Infinity"}}}`,
		`{"type":"ACCEPT","accept":{"offer_ids":[{"value":"1"}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"n","task_id":{"value":"t"},"agent_id":{"value":"a"},"limits":{"a":{"value":1e3}},"data":"//4="}]}}]}}`,
		`{"type":"ACKNOWLEDGE","acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"b"},"uuid":"AAAA"}}`,
		`{"x":[[[]]],"type":5}`, `{"type":"KILL","kill":{"task_id":{"value":"\ud800\u0000"}}}`, `{`, ``, `nul`, `{"a":tru}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var a, b scheduler.Call
		if mesosjson.Unmarshal(in, &a) != nil {
			return
		}
		text := mesosjson.Marshal(&a)
		if err := mesosjson.Unmarshal(text, &b); err != nil {
			t.Fatalf("%s\nread again: %v", text, err)
		}
		if again := mesosjson.Marshal(&b); string(again) != string(text) {
			t.Fatalf("%s\n%s", text, again)
		}
		if strings.ContainsAny(string(text), "\n\r") {
			t.Fatalf("line break in %q", text)
		}
	})
}
