package leader

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// mesos-go refuses records of more than 4 MiB: however many agents are offered at once, and
// whatever their attributes are, no record is longer, and nothing is left out.
func TestOffersAreSplitOverRecords(t *testing.T) {
	var list []*mesosv1.Offer
	for i := range 5000 {
		o := &mesosv1.Offer{
			Id: &mesosv1.OfferID{Value: proto.String(fmt.Sprint("offer-", i))}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")},
			AgentId: &mesosv1.AgentID{Value: proto.String(fmt.Sprint("agent-", i))}, Hostname: proto.String("host"),
		}
		for a := range 10 {
			o.Attributes = append(o.Attributes, &mesosv1.Attribute{
				Name: proto.String(fmt.Sprint("attribute-", a)), Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: proto.String(strings.Repeat("<\x01>", 30))},
			})
		}
		list = append(list, o)
	}
	seen := 0
	events := offersEvents(list)
	for _, e := range events {
		record, ok := e.Message().(*scheduler.Event)
		if !ok {
			t.Fatalf("%T", e.Message())
		}
		if n := max(len(mesosjson.Marshal(record)), proto.Size(record)); n > 4<<20 {
			t.Errorf("a record of %d bytes", n)
		}
		seen += len(record.GetOffers().GetOffers())
	}
	if seen != len(list) || len(events) < 2 {
		t.Errorf("%d offers in %d records, of %d", seen, len(events), len(list))
	}
}
