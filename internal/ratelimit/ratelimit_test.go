package ratelimit

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := Parse([]byte(`{"limits":[{"principal":"a","qps":2.5,"capacity":7},{"principal":"b","qps":0.1},{"principal":"c"}],"aggregate_default_qps":10,"aggregate_default_capacity":100}`))
	want := &Limits{[]Limit{{"a", Rate{2.5, 7}}, {"b", Rate{0.1, 1}}, {"c", Rate{}}}, Rate{10, 100}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for text, want := range map[string]string{
		`[]`:                                                  "1:1: rate limits are a list",
		`{"limit":[]}`:                                        `1:2: unknown key "limit" in rate limits — did you mean "limits"?`,
		`{"limits":{}}`:                                       "limits must be a list of at most 1000",
		`{"limits":[1]}`:                                      "limits[0] is a single value",
		`{"limits":[{"qps":1}]}`:                              "limits[0] has no principal",
		`{"limits":[{"principal":""}]}`:                       "limits[0].principal must be a name",
		`{"limits":[{"principal":"a","qps":0}]}`:              "limits[0].qps must be a number of calls a second, more than 0",
		`{"limits":[{"principal":"a","qps":-1}]}`:             "limits[0].qps must be",
		`{"limits":[{"principal":"a","qps":"NaN"}]}`:          "limits[0].qps must be",
		`{"limits":[{"principal":"a","qps":1e9}]}`:            "limits[0].qps must be",
		`{"limits":[{"principal":"a","capacity":1}]}`:         "limits[0].capacity without limits[0].qps limits nothing",
		`{"limits":[{"principal":"a","qps":1,"capacity":0}]}`: "limits[0].capacity must be a whole number from 1",
		`{"limits":[{"principal":"a"},{"principal":"a"}]}`:    `limits[1]: "a" has a limit already`,
		`{"aggregate_default_capacity":1}`:                    "aggregate_default_capacity without aggregate_default_qps limits nothing",
		`{"limits":[{"principal":"a","qs":1}]}`:               `did you mean "qps"?`,
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"limits":[{"principal":"a","qps":2.5,"capacity":7},{"principal":"c"}],"aggregate_default_qps":10}`))
	f.Add([]byte(`{"limits":[{"principal":"a","qps":"1e-300"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := Parse(text)
		if err != nil {
			return
		}
		for _, one := range append(l.Limits, Limit{"", l.Aggregate}) {
			if math.IsNaN(one.QPS) || one.QPS < 0 || one.QPS > 0 && one.Capacity < 1 {
				t.Errorf("%+v", one)
			}
		}
		raw, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Error(diff)
		}
	})
}
