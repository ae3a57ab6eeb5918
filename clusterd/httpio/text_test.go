package httpio

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Text that is not UTF-8 gets in by neither encoding: the messages that nodes send each other
// could not hold it.
func TestTextIsUTF8(t *testing.T) {
	call := func(user string, data []byte) *scheduler.Call {
		return &scheduler.Call{
			Type:      scheduler.Call_SUBSCRIBE.Enum(),
			Subscribe: &scheduler.Call_Subscribe{FrameworkInfo: &mesosv1.FrameworkInfo{User: &user, Name: proto.String("n")}},
			Message:   &scheduler.Call_Message{Data: data},
		}
	}
	encode := func(c *scheduler.Call) []byte {
		raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	decode := func(media string, raw []byte) error {
		return Decode(media, raw, &scheduler.Call{})
	}
	if err := decode(Protobuf, encode(call("a\xffb", nil))); err == nil || !strings.Contains(err.Error(), `field mesos.v1.FrameworkInfo.user is "a\xffb", which is not UTF-8`) {
		t.Error(err)
	}
	if err := decode(Protobuf, encode(call("grün", []byte("\xff\xfe")))); err != nil && strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("bytes need not be text: %v", err)
	}
	c := &scheduler.Call{}
	err := Decode(JSON, []byte(`{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"a`+"\xff"+`b","name":"n"}}}`), c)
	if user := c.GetSubscribe().GetFrameworkInfo().GetUser(); err == nil && strings.Contains(user, "\xff") {
		t.Errorf("JSON let %q in", user)
	}
}
