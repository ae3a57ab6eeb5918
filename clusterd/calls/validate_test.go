package calls

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/httpio"
)

func TestValidate(t *testing.T) {
	for _, test := range []struct{ name, call, principal, want string }{
		{"no type", `{}`, "", "Expecting 'type' to be present"},
		{"unknown type", `{"type":"UNKNOWN"}`, "", "Expecting 'framework_id' to be present"},
		{"subscribe without its message", `{"type":"SUBSCRIBE"}`, "", "Expecting 'subscribe' to be present"},
		{"accept without its message", `{"type":"ACCEPT","framework_id":{"value":"f"}}`, "", "Expecting 'accept' to be present"},
		{"decline without its message", `{"type":"DECLINE","framework_id":{"value":"f"}}`, "", "Expecting 'decline' to be present"},
		{"kill without its message", `{"type":"KILL","framework_id":{"value":"f"}}`, "", "Expecting 'kill' to be present"},
		{"acknowledge without its message", `{"type":"ACKNOWLEDGE","framework_id":{"value":"f"}}`, "", "Expecting 'acknowledge' to be present"},
		{"reconcile without its message", `{"type":"RECONCILE","framework_id":{"value":"f"}}`, "", "Expecting 'reconcile' to be present"},
		{"message without its message", `{"type":"MESSAGE","framework_id":{"value":"f"}}`, "", "Expecting 'message' to be present"},
		{"request without its message", `{"type":"REQUEST","framework_id":{"value":"f"}}`, "", "Expecting 'request' to be present"},
		{"shutdown without its message", `{"type":"SHUTDOWN","framework_id":{"value":"f"}}`, "", "Expecting 'shutdown' to be present"},
		{"update without its message", `{"type":"UPDATE_FRAMEWORK","framework_id":{"value":"f"}}`, "", "Expecting 'update_framework' to be present"},
		{
			"an update of another framework", `{"type":"UPDATE_FRAMEWORK","framework_id":{"value":"f"},"update_framework":{"framework_info":{"user":"u","name":"n","id":{"value":"g"}}}}`, "",
			"'framework_id' differs from 'update_framework.framework_info.id'",
		},
		{"reconcile operations without its message", `{"type":"RECONCILE_OPERATIONS","framework_id":{"value":"f"}}`, "", "Expecting 'reconcile_operations' to be present"},
		{
			"an acknowledged operation without an agent", `{"type":"ACKNOWLEDGE_OPERATION_STATUS","framework_id":{"value":"f"},"acknowledge_operation_status":{"operation_id":{"value":"o"},"uuid":"MDEyMzQ1Njc4OWFiY2RlZg=="}}`, "",
			"Expecting 'acknowledge_operation_status.agent_id' to be present",
		},
		{
			"an acknowledged operation's uuid", `{"type":"ACKNOWLEDGE_OPERATION_STATUS","framework_id":{"value":"f"},"acknowledge_operation_status":{"agent_id":{"value":"a"},"operation_id":{"value":"o"},"uuid":"MDEy"}}`, "",
			"Not a valid UUID: expecting 'acknowledge_operation_status.uuid' to be 16 bytes long, not 3",
		},
		{"no framework id", `{"type":"TEARDOWN"}`, "", "Expecting 'framework_id' to be present"},
		{
			"a uuid of 15 bytes", `{"type":"ACKNOWLEDGE","framework_id":{"value":"f"},"acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"AAAAAAAAAAAAAAAAAAAA"}}`, "",
			"Not a valid UUID: expecting 'acknowledge.uuid' to be 16 bytes long, not 15",
		},
		{
			"two framework ids", `{"type":"SUBSCRIBE","framework_id":{"value":"f"},"subscribe":{"framework_info":{"user":"u","name":"n","id":{"value":"g"}}}}`, "",
			"'framework_id' differs from 'subscribe.framework_info.id'",
		},
		{
			"somebody else's principal", `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n","principal":"q"}}}`, "p",
			"Authenticated principal 'p' does not match principal 'q' set in `FrameworkInfo`",
		},
		{"any principal, anonymously", `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n","principal":"q"}}}`, "", ""},
		{"the same id twice", `{"type":"SUBSCRIBE","framework_id":{"value":"f"},"subscribe":{"framework_info":{"user":"u","name":"n","id":{"value":"f"}}}}`, "", ""},
		{"revive without a message", `{"type":"REVIVE","framework_id":{"value":"f"}}`, "", ""},
		{"suppress without a message", `{"type":"SUPPRESS","framework_id":{"value":"f"}}`, "", ""},
		{"teardown", `{"type":"TEARDOWN","framework_id":{"value":"f"}}`, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var call scheduler.Call
			if err := mesosjson.Unmarshal([]byte(test.call), &call); err != nil {
				t.Fatal(err)
			}
			have := ""
			if err := validate(&call, test.principal); err != nil {
				have = err.Error()
			}
			if have != test.want {
				t.Errorf("%q, want %q", have, test.want)
			}
		})
	}
}

// A call that passes has what the leader reads without asking.
func FuzzValidate(f *testing.F) {
	for _, s := range []string{
		`{"type":"REVIVE","framework_id":{"value":"f"}}`, `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n"}}}`,
		`{"type":"ACCEPT","framework_id":{"value":"f"},"accept":{"offer_ids":[{"value":"o"}],"operations":[{"type":"LAUNCH"}]}}`, `{}`,
	} {
		f.Add(false, []byte(s), "p")
		var call scheduler.Call
		if err := mesosjson.Unmarshal([]byte(s), &call); err != nil {
			continue
		}
		raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&call)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(true, raw, "")
	}
	f.Fuzz(func(t *testing.T, binary bool, body []byte, principal string) {
		media := httpio.JSON
		if binary {
			media = httpio.Protobuf
		}
		var call scheduler.Call
		if httpio.Decode(media, body, &call) != nil || validate(&call, principal) != nil {
			return
		}
		if call.Type == nil || call.GetType() != scheduler.Call_SUBSCRIBE && call.FrameworkId == nil {
			t.Fatalf("passed: %v", &call)
		}
		if call.GetType() == scheduler.Call_SUBSCRIBE && call.GetSubscribe().GetFrameworkInfo() == nil {
			t.Fatalf("passed: %v", &call)
		}
		if call.GetType() == scheduler.Call_ACKNOWLEDGE && len(call.GetAcknowledge().GetUuid()) != 16 {
			t.Fatalf("passed: %v", &call)
		}
	})
}
