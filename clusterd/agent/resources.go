package agent

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"google.golang.org/protobuf/proto"
)

const mib = 1 << 20

// Offered says what the node gives to tasks: the document's explicit resources, or all
// of the machine without the reserve and the RAM that the task store may take. What the
// document oversubscribes comes on top, as what may be taken back.
func Offered(inv *noded.Inventory, doc nodedoc.Document) ([]*mesosv1.Resource, error) {
	out, err := owned(inv, doc)
	if more := doc.Oversubscribe.CPUs; err == nil && more > 0 {
		r := scalar("cpus", more)
		r.Revocable = &mesosv1.Resource_RevocableInfo{}
		out = append(out, r)
	}
	return out, err
}

// owned is what the node has for tasks.
func owned(inv *noded.Inventory, doc nodedoc.Document) ([]*mesosv1.Resource, error) {
	if doc.Resources != "" && doc.Resources != "auto" {
		return ParseResources(doc.Resources)
	}
	reserve := doc.Reserve.MemoryMB
	if reserve == 0 {
		reserve = max(112, inv.GetMemoryBytes()/20/mib)
	}
	total := inv.GetMemoryBytes() / mib
	store := inv.GetRamStoreBytes() / mib
	if total <= reserve+store+8 {
		return nil, fmt.Errorf("this machine has %d MB of memory; %d MB are reserved and %d MB are the task store: nothing is left for tasks (give it more memory, or lower ramStore or reserve in the cluster file)", total, reserve, store)
	}
	disk := store
	if inv.GetWorkDiskBytes() > 0 {
		disk = inv.GetWorkDiskBytes() / mib
	}
	cpus := math.Max(0.1, float64(inv.GetCpus())-doc.Reserve.CPUs)
	out := []*mesosv1.Resource{scalar("cpus", cpus), scalar("mem", float64(total-reserve-store)), scalar("disk", float64(disk)), ports(31000, 32000)}
	if n := computeGPUs(inv.GetGpus()); n > 0 {
		out = append(out, scalar("gpus", float64(n)))
	}
	return out, nil
}

// computeGPUs counts the cards that can compute: firmware's and emulators' displays
// share the PCI class but are nothing to offer.
func computeGPUs(gpus []*noded.Gpu) int {
	n := 0
	for _, g := range gpus {
		switch strings.ToLower(strings.TrimPrefix(g.GetVendorId(), "0x")) {
		case "10de", "1002":
			n++
		}
	}
	return n
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{
		Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Role: proto.String("*"),
		Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(math.Round(v*1000) / 1000)},
	}
}

func ports(begin, end uint64) *mesosv1.Resource {
	return &mesosv1.Resource{
		Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(), Role: proto.String("*"),
		Ranges: &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{{Begin: proto.Uint64(begin), End: proto.Uint64(end)}}},
	}
}

// ParseResources reads the text form "cpus:24;mem:24576;ports:[31000-32000,33000-34000];bugs:{a,b}".
// Roles in parentheses (static reservations) are refused: they are not supported yet.
func ParseResources(text string) ([]*mesosv1.Resource, error) {
	if len(text) > 4096 {
		return nil, fmt.Errorf("resources: %d characters, at most 4096", len(text))
	}
	var out []*mesosv1.Resource
	seen := map[string]bool{}
	for item := range strings.SplitSeq(text, ";") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		name, value, ok := strings.Cut(item, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("resources: %q is not name:value, as in cpus:4", item)
		}
		if strings.ContainsAny(name, "()") {
			return nil, fmt.Errorf("resources: %q reserves for a role, which is not supported yet; leave the parentheses out", item)
		}
		if seen[name] {
			return nil, fmt.Errorf("resources: %q is given twice", name)
		}
		seen[name] = true
		r, err := parseValue(name, value)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if !seen["cpus"] || !seen["mem"] {
		return nil, fmt.Errorf("resources: %q names no cpus or no mem; both are needed for anything to run", text)
	}
	return out, nil
}

func parseValue(name, value string) (*mesosv1.Resource, error) {
	switch value[0] {
	case '[':
		return parseRanges(name, value)
	case '{':
		r := &mesosv1.Resource{Name: proto.String(name), Type: mesosv1.Value_SET.Enum(), Role: proto.String("*"), Set: &mesosv1.Value_Set{}}
		inner, ok := strings.CutSuffix(value[1:], "}")
		if !ok {
			return nil, fmt.Errorf("resources: %s: %q does not end in }", name, value)
		}
		for item := range strings.SplitSeq(inner, ",") {
			if item = strings.TrimSpace(item); item != "" {
				r.Set.Item = append(r.Set.Item, item)
			}
		}
		return r, nil
	}
	v, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || v > 1e12 {
		return nil, fmt.Errorf("resources: %s: %q is not a number of 0 or more", name, value)
	}
	return scalar(name, v), nil
}

func parseRanges(name, value string) (*mesosv1.Resource, error) {
	inner, ok := strings.CutSuffix(value[1:], "]")
	if !ok {
		return nil, fmt.Errorf("resources: %s: %q does not end in ]", name, value)
	}
	r := &mesosv1.Resource{Name: proto.String(name), Type: mesosv1.Value_RANGES.Enum(), Role: proto.String("*"), Ranges: &mesosv1.Value_Ranges{}}
	for item := range strings.SplitSeq(inner, ",") {
		lo, hi, ok := strings.Cut(strings.TrimSpace(item), "-")
		begin, err1 := strconv.ParseUint(lo, 10, 64)
		end, err2 := strconv.ParseUint(hi, 10, 64)
		if !ok || err1 != nil || err2 != nil || begin > end {
			return nil, fmt.Errorf("resources: %s: %q is not a range, as in 31000-32000", name, item)
		}
		r.Ranges.Range = append(r.Ranges.Range, &mesosv1.Value_Range{Begin: proto.Uint64(begin), End: proto.Uint64(end)})
	}
	list := r.Ranges.Range
	sort.Slice(list, func(i, j int) bool { return list[i].GetBegin() < list[j].GetBegin() })
	for i := 1; i < len(list); i++ {
		if list[i].GetBegin() <= list[i-1].GetEnd() {
			return nil, fmt.Errorf("resources: %s: %d stands in two ranges", name, list[i].GetBegin())
		}
	}
	return r, nil
}

// Attributes turns the document's attributes into Mesos' ones, as text or, when they
// are numbers, as scalars; sorted by name.
func Attributes(doc nodedoc.Document) []*mesosv1.Attribute {
	all := map[string]string{}
	for k, v := range doc.Attributes {
		all[k] = v
	}
	if doc.Zone != "" {
		if _, own := all["zone"]; !own {
			all["zone"] = doc.Zone
		}
	}
	names := make([]string, 0, len(all))
	for k := range all {
		names = append(names, k)
	}
	sort.Strings(names)
	out := make([]*mesosv1.Attribute, 0, len(names))
	for _, k := range names {
		at := &mesosv1.Attribute{Name: proto.String(k)}
		if v, err := strconv.ParseFloat(all[k], 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
			at.Type, at.Scalar = mesosv1.Value_SCALAR.Enum(), &mesosv1.Value_Scalar{Value: proto.Float64(v)}
		} else {
			at.Type, at.Text = mesosv1.Value_TEXT.Enum(), &mesosv1.Value_Text{Value: proto.String(all[k])}
		}
		out = append(out, at)
	}
	return out
}

// Domain is the document's fault domain; nil: it has none.
func Domain(doc nodedoc.Document) *mesosv1.DomainInfo {
	region, zone, ok := doc.Domain()
	if !ok {
		return nil
	}
	return &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
		Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: proto.String(region)},
		Zone:   &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: proto.String(zone)},
	}}
}
