package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSkewedClocksAreNamed(t *testing.T) {
	for _, c := range []struct {
		ahead map[string]time.Duration
		want  []string
	}{
		{nil, nil},
		{map[string]time.Duration{"n1": time.Second, "n2": -4 * time.Minute, "n3": 0}, nil},
		{map[string]time.Duration{"n1": 0, "n2": 3 * time.Hour, "n3": -6 * time.Minute}, []string{"the clock of n2 is 3h0m0s ahead of the others'", "the clock of n3 is 6m0s behind the others'"}},
		{map[string]time.Duration{"n1": time.Hour}, []string{"the cluster's clocks are 1h0m0s ahead of this machine's"}},
	} {
		if got := skewed(c.ahead); !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.ahead, got, c.want)
		}
	}
}

// A node tells its time with every answer.
func TestStatusNamesASkewedClock(t *testing.T) {
	node := func(name string, by time.Duration) targetNode {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		}))
		t.Cleanup(s.Close)
		return targetNode{stateNode: stateNode{Name: name}, api: s.URL}
	}
	target := &target{http: http.DefaultClient, nodes: []targetNode{node("n1", 0), node("n2", -2*time.Hour), node("n3", 0), {stateNode: stateNode{Name: "n4"}, api: "http://127.0.0.1:1"}}}
	s := statusView{Healthy: true, Summary: "Cluster c is well."}
	s.addClocks(target.clocks(t.Context()))
	if want := "Cluster c is well. But the clock of n2 is 2h0m0s behind the others'."; s.Summary != want || len(s.Clocks) != 1 || !strings.HasPrefix(s.Clocks[0], "the clock of n2") {
		t.Errorf("%+v", s)
	}
}
