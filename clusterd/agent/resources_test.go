package agent

import (
	"strings"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/noded"
)

func amounts(list []*mesosv1.Resource) map[string]float64 {
	out := map[string]float64{}
	for _, r := range list {
		out[r.GetName()] = r.GetScalar().GetValue()
	}
	return out
}

func TestOfferedKeepsReserveAndStore(t *testing.T) {
	inv := &noded.Inventory{Cpus: 4, MemoryBytes: 1000 * mib, RamStoreBytes: 250 * mib, Gpus: []*noded.Gpu{
		{VendorId: "10de"}, {VendorId: "1234"}, // an emulator's display is nothing to offer
	}}
	got, err := Offered(inv, nodedoc.Document{Reserve: nodedoc.Reserve{CPUs: 0.1}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"cpus": 3.9, "mem": 1000 - 250 - 112, "disk": 250, "ports": 0, "gpus": 1}
	for name, v := range want {
		if amounts(got)[name] != v {
			t.Errorf("%s = %v, want %v", name, amounts(got)[name], v)
		}
	}
	if _, err := Offered(&noded.Inventory{Cpus: 1, MemoryBytes: 128 * mib, RamStoreBytes: 32 * mib}, nodedoc.Document{}); err == nil || !strings.Contains(err.Error(), "128 MB") {
		t.Errorf("a machine too small: %v", err)
	}
}

// What is oversubscribed comes on top of what there is, marked as what may be taken back.
func TestOversubscribedIsRevocable(t *testing.T) {
	for _, doc := range []nodedoc.Document{{Resources: "cpus:2;mem:64"}, {}} {
		doc.Oversubscribe.CPUs = 1.5
		got, err := Offered(&noded.Inventory{Cpus: 2, MemoryBytes: 1000 * mib}, doc)
		if err != nil {
			t.Fatal(err)
		}
		own, more := 0.0, 0.0
		for _, r := range got {
			switch {
			case r.GetName() != "cpus":
			case r.Revocable != nil:
				more += r.GetScalar().GetValue()
			default:
				own += r.GetScalar().GetValue()
			}
		}
		if own != 2 || more != 1.5 {
			t.Errorf("%q offers %v cpus and %v that may be taken back", doc.Resources, own, more)
		}
	}
}

func TestParseResources(t *testing.T) {
	got, err := ParseResources(" cpus:24; mem:24576.5 ;ports:[33000-34000, 31000-32000];bugs:{a, b}")
	if err != nil {
		t.Fatal(err)
	}
	if a := amounts(got); a["cpus"] != 24 || a["mem"] != 24576.5 {
		t.Errorf("%v", a)
	}
	if r := got[2].GetRanges().GetRange(); len(r) != 2 || r[0].GetBegin() != 31000 {
		t.Errorf("ranges %v", r)
	}
	for text, why := range map[string]string{
		"cpus:1":                          "no mem",
		"cpus:x;mem:1":                    "not a number",
		"cpus:-1;mem:1":                   "not a number",
		"cpus:1;cpus:2;mem:1":             "twice",
		"cpus(ads):1;mem:1":               "not supported yet",
		"cpus:1;mem:1;ports:[5-4]":        "not a range",
		"cpus:1;mem:1;ports:[1-10,10-12]": "two ranges",
		"cpus:1;mem:1;ports:[1-10":        "does not end",
		"cpus":                            "name:value",
		strings.Repeat("a", 5000):         "at most",
		"cpus:1;mem:1;bugs:{a":            "does not end",
		"cpus:1;mem:1;ports:[1-99999999999999999999]": "not a range",
	} {
		if _, err := ParseResources(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%.40q: %v, want %q", text, err, why)
		}
	}
}

func FuzzParseResources(f *testing.F) {
	f.Add("cpus:24;gpus:2;mem:24576;disk:409600;ports:[21000-24000,30000-34000];bugs:{a,b,c}")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseResources(text)
		if err == nil && len(list) < 2 {
			t.Fatalf("%q gave %d resources", text, len(list))
		}
	})
}

func TestAttributes(t *testing.T) {
	got := Attributes(nodedoc.Document{Zone: "a", Attributes: map[string]string{"site": "fra", "level": "10"}})
	if len(got) != 3 || got[0].GetName() != "level" || got[0].GetScalar().GetValue() != 10 || got[2].GetText().GetValue() != "a" {
		t.Errorf("%v", got)
	}
}
