package constraints

import (
	"strings"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"google.golang.org/protobuf/proto"
)

func read(t testing.TB, text string) *scheduler.OfferConstraints {
	t.Helper()
	c := &scheduler.OfferConstraints{}
	if err := mesosjson.Unmarshal([]byte(text), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// of is one role's constraints: a list of groups, each a list of selector and predicate.
func of(t testing.TB, groups string) *scheduler.OfferConstraints {
	return read(t, `{"role_constraints":{"r":{"groups":`+groups+`}}}`)
}

func one(selector, predicate string) string {
	return `[{"attribute_constraints":[{"selector":` + selector + `,"predicate":` + predicate + `}]}]`
}

var here = &Agent{
	Hostname: "n1.example",
	Attributes: []*mesosv1.Attribute{
		{Name: proto.String("rack"), Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: proto.String("r-12")}},
		{Name: proto.String("rack"), Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: proto.String("second")}},
		{Name: proto.String("level"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(10)}},
	},
	Domain: &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
		Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: proto.String("north")}, Zone: &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: proto.String("z1")},
	}},
}

func TestWhatHolds(t *testing.T) {
	rack, none, level := `{"attribute_name":"rack"}`, `{"attribute_name":"none"}`, `{"attribute_name":"level"}`
	host, region, zone := `{"pseudoattribute_type":"HOSTNAME"}`, `{"pseudoattribute_type":"REGION"}`, `{"pseudoattribute_type":"ZONE"}`
	for _, test := range []struct {
		what, selector, predicate string
		want                      bool
	}{
		{"there", rack, `{"exists":{}}`, true},
		{"not there", none, `{"exists":{}}`, false},
		{"must not be there", rack, `{"not_exists":{}}`, false},
		{"is not there, as it must", none, `{"not_exists":{}}`, true},
		{"equal", rack, `{"text_equals":{"value":"r-12"}}`, true},
		{"the first of two counts", rack, `{"text_equals":{"value":"second"}}`, false},
		{"nothing equals nothing", none, `{"text_equals":{"value":""}}`, false},
		{"a number equals every text", level, `{"text_equals":{"value":"x"}}`, true},
		{"and differs from every text", level, `{"text_not_equals":{"value":"10"}}`, true},
		{"differs", rack, `{"text_not_equals":{"value":"r-13"}}`, true},
		{"does not differ", rack, `{"text_not_equals":{"value":"r-12"}}`, false},
		{"what is not there differs", none, `{"text_not_equals":{"value":"x"}}`, true},
		{"matches", rack, `{"text_matches":{"regex":"r-1[0-9]"}}`, true},
		{"a part is not enough", rack, `{"text_matches":{"regex":"r-1"}}`, false},
		{"nor one alternative's part", rack, `{"text_matches":{"regex":"r|x-12"}}`, false},
		{"matches not", rack, `{"text_not_matches":{"regex":"r-2.*"}}`, true},
		{"matches, and must not", rack, `{"text_not_matches":{"regex":"r-.*"}}`, false},
		{"what is not there matches nothing", none, `{"text_matches":{"regex":".*"}}`, false},
		{"and no match is as wanted", none, `{"text_not_matches":{"regex":".*"}}`, true},
		{"a number matches every text", level, `{"text_matches":{"regex":"x"}}`, true},
		{"host name", host, `{"text_equals":{"value":"n1.example"}}`, true},
		{"region", region, `{"text_equals":{"value":"north"}}`, true},
		{"zone", zone, `{"text_equals":{"value":"z2"}}`, false},
	} {
		s, err := Compile(of(t, one(test.selector, test.predicate)), []string{"r"})
		if err != nil {
			t.Fatalf("%s: %v", test.what, err)
		}
		if got := s.Allow("r", here); got != test.want {
			t.Errorf("%s: %v", test.what, got)
		}
		if !s.Allow("other", here) {
			t.Errorf("%s: another role is constrained", test.what)
		}
	}
	if s, err := Compile(of(t, one(region, `{"exists":{}}`)), []string{"r"}); err != nil || s.Allow("r", &Agent{}) {
		t.Errorf("an agent without a domain has a region (%v)", err)
	}
}

// Groups are alternatives; inside a group everything must hold.
func TestGroups(t *testing.T) {
	yes, no := `{"selector":{"attribute_name":"rack"},"predicate":{"exists":{}}}`, `{"selector":{"attribute_name":"rack"},"predicate":{"not_exists":{}}}`
	for text, want := range map[string]bool{
		`[{"attribute_constraints":[` + yes + `,` + no + `]}]`:                                        false,
		`[{"attribute_constraints":[` + yes + `,` + yes + `]}]`:                                       true,
		`[{"attribute_constraints":[` + no + `]},{"attribute_constraints":[` + yes + `]}]`:            true,
		`[{"attribute_constraints":[` + no + `]},{"attribute_constraints":[` + no + `]}]`:             false,
		`[{"attribute_constraints":[` + yes + `]},{"attribute_constraints":[` + no + `]}]`:            true,
		`[{"attribute_constraints":[` + no + `,` + yes + `]},{"attribute_constraints":[` + no + `]}]`: false,
	} {
		s, err := Compile(of(t, text), []string{"r"})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Allow("r", here); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if s, err := Compile(nil, nil); err != nil || !s.Empty() || !s.Allow("r", here) {
		t.Errorf("no constraints allow nothing: %v", err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	attr, exists := `{"attribute_name":"a"}`, `{"exists":{}}`
	for _, test := range []struct {
		text, says string
	}{
		{`{"role_constraints":{"x":{"groups":` + one(attr, exists) + `}}}`, `"x", which is not in the list of roles [r]`},
		{`{"role_constraints":{"r":{}}}`, "0 groups"},
		{`{"role_constraints":{"r":{"groups":[{}]}}}`, "no constraints"},
		{`{"role_constraints":{"r":{"groups":` + one(`{}`, exists) + `}}}`, "must name either"},
		{`{"role_constraints":{"r":{"groups":` + one(`{"attribute_name":"a","pseudoattribute_type":"ZONE"}`, exists) + `}}}`, "must name either"},
		{`{"role_constraints":{"r":{"groups":` + one(attr, `{}`) + `}}}`, "no predicate"},
		{`{"role_constraints":{"r":{"groups":` + one(attr, `{"text_matches":{"regex":"("}}`) + `}}}`, "cannot be read"},
		{`{"role_constraints":{"r":{"groups":` + one(attr, `{"text_matches":{"regex":"\\C*"}}`) + `}}}`, "cannot be read"},
		{`{"role_constraints":{"r":{"groups":` + one(attr, `{"text_not_matches":{"regex":"(abcdefgh){30}"}}`) + `}}}`, "too large"},
		{`{"role_constraints":{"r":{"groups":` + one(attr, `{"text_matches":{"regex":"`+strings.Repeat("a", 5000)+`"}}`) + `}}}`, "5000 bytes"},
		{`{"role_constraints":{"r":{"groups":` + one(attr, `{"text_matches":{"regex":"`+strings.Repeat(`\\pL`, 3)+`"}}`) + `}}}`, "too many characters"},
		{`{"role_constraints":{"r":{"groups":[` + strings.TrimSuffix(strings.Repeat(`{"attribute_constraints":[{"selector":`+attr+`,"predicate":`+exists+`}]},`, 10_001), ",") + `]}}}`, "10001 groups"},
		{`{"role_constraints":{"r":{"groups":[` + strings.TrimSuffix(strings.Repeat(`{"attribute_constraints":[{"selector":`+attr+`,"predicate":{"text_matches":{"regex":"\\pL"}}}]},`, 200), ",") + `]}}}`, "too many characters"},
	} {
		_, err := Compile(read(t, test.text), []string{"r"})
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%.200s: %v", test.text, err)
		}
	}
}

func FuzzCompile(f *testing.F) {
	for _, text := range []string{
		`{"role_constraints":{"r":{"groups":` + one(`{"attribute_name":"rack"}`, `{"text_matches":{"regex":"(a|b)*"}}`) + `}}}`,
		`{"role_constraints":{"r":{"groups":` + one(`{"pseudoattribute_type":"ZONE"}`, `{"not_exists":{}}`) + `}}}`,
		`{"role_constraints":{"r":{"groups":[{},{}]}}}`,
	} {
		raw, err := proto.Marshal(read(f, text))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := &scheduler.OfferConstraints{}
		if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, c) != nil {
			return
		}
		s, err := Compile(c, []string{"r"})
		if err != nil {
			return
		}
		s.Allow("r", here)
		s.Allow("r", &Agent{})
	})
}
