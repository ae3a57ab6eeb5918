package legacy

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"google.golang.org/protobuf/proto"
)

// number is a double as Mesos writes it.
type number float64

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) { return mesosjson.AppendFloat(nil, float64(n), 64), nil }

// resources is the flat form: cpus, mem, disk and gpus always, other scalars by name,
// ranges and sets as text, revocable ones with a suffix.
type resources map[string]any

func flat(list []*mesosv1.Resource) resources {
	out := resources{"cpus": number(0), "mem": number(0), "disk": number(0), "gpus": number(0)}
	ranges := map[string][]*mesosv1.Value_Range{}
	sets := map[string][]string{}
	for _, r := range list {
		name := r.GetName()
		if r.Revocable != nil {
			name += "_revocable"
		}
		switch r.GetType() {
		case mesosv1.Value_SCALAR:
			sum, _ := out[name].(number)
			// Summed as thousandths, as Mesos compares them: 0.1 + 0.2 is 0.3.
			milli := int64(float64(sum)*1000+0.5) + int64(r.GetScalar().GetValue()*1000+0.5)
			out[name] = number(float64(milli) / 1000)
		case mesosv1.Value_RANGES:
			ranges[name] = append(ranges[name], r.GetRanges().GetRange()...)
			out[name] = rangesText(ranges[name])
		case mesosv1.Value_SET:
			sets[name] = append(sets[name], r.GetSet().GetItem()...)
			out[name] = setText(sets[name])
		}
	}
	return out
}

// rangesText joins ranges that touch: two tasks' ports may lie side by side.
func rangesText(list []*mesosv1.Value_Range) string {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *mesosv1.Value_Range) int {
		return int(min(max(int64(a.GetBegin())-int64(b.GetBegin()), -1), 1))
	})
	var parts []string
	for i := 0; i < len(list); {
		begin, end := list[i].GetBegin(), list[i].GetEnd()
		for i++; i < len(list) && list[i].GetBegin() <= end+1; i++ {
			end = max(end, list[i].GetEnd())
		}
		parts = append(parts, strconv.FormatUint(begin, 10)+"-"+strconv.FormatUint(end, 10))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func setText(items []string) string {
	items = slices.Clone(items)
	slices.Sort(items)
	return "{" + strings.Join(slices.Compact(items), ", ") + "}"
}

// perRole splits reserved resources by role, in the flat form.
func perRole(list []*mesosv1.Resource) (reserved map[string]resources, unreserved resources) {
	byRole := map[string][]*mesosv1.Resource{}
	var free []*mesosv1.Resource
	for _, r := range list {
		if role := reservedFor(r); role != "*" {
			byRole[role] = append(byRole[role], r)
			continue
		}
		free = append(free, r)
	}
	reserved = map[string]resources{}
	for role, list := range byRole {
		reserved[role] = flat(list)
	}
	return reserved, flat(free)
}

func reservedFor(r *mesosv1.Resource) string {
	if n := len(r.GetReservations()); n > 0 {
		return r.GetReservations()[n-1].GetRole()
	}
	return r.GetRole()
}

// fullPerRole is perRole with whole Resource objects.
func fullPerRole(list []*mesosv1.Resource) (reserved map[string][]json.RawMessage, unreserved []json.RawMessage) {
	reserved, unreserved = map[string][]json.RawMessage{}, []json.RawMessage{}
	for _, r := range list {
		if role := reservedFor(r); role != "*" {
			reserved[role] = append(reserved[role], raw(r))
			continue
		}
		unreserved = append(unreserved, raw(r))
	}
	return reserved, unreserved
}

// raw is a message in the v1 form; where it nests ids of agents the names are those of
// the message.
func raw(m proto.Message) json.RawMessage {
	if m == nil || !m.ProtoReflect().IsValid() {
		return nil
	}
	return mesosjson.Marshal(m)
}

func rawList[M proto.Message](list []M) []json.RawMessage {
	out := make([]json.RawMessage, 0, len(list))
	for _, m := range list {
		out = append(out, raw(m))
	}
	return out
}

// attributes are flat too: text, a number, or text in brackets.
func attributes(list []*mesosv1.Attribute) map[string]any {
	out := make(map[string]any, len(list))
	for _, a := range list {
		switch a.GetType() {
		case mesosv1.Value_SCALAR:
			out[a.GetName()] = number(a.GetScalar().GetValue())
		case mesosv1.Value_RANGES:
			out[a.GetName()] = rangesText(a.GetRanges().GetRange())
		case mesosv1.Value_SET:
			out[a.GetName()] = setText(a.GetSet().GetItem())
		default:
			out[a.GetName()] = a.GetText().GetValue()
		}
	}
	return out
}

func seconds(t *mesosv1.TimeInfo) number { return number(float64(t.GetNanoseconds()) / 1e9) }
