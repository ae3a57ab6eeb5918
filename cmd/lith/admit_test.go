package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/api/node"
)

// machines serves the own side of nodes, and notes what each was told.
func machines(t *testing.T, held map[string][]node.Held) (*target, func() []string) {
	t.Helper()
	var told []string
	tg := &target{name: "demo", dir: "x", api: []string{"http://127.0.0.1:1"}, http: http.DefaultClient}
	for _, name := range []string{"n1", "n2", "n3"} {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v1/health", func(w http.ResponseWriter, _ *http.Request) {
			if err := json.NewEncoder(w).Encode(node.Health{Name: name, Status: node.ClusterStatus{Held: held[name]}}); err != nil {
				t.Error(err)
			}
		})
		mux.HandleFunc("POST /v1/masters/admit", func(w http.ResponseWriter, r *http.Request) {
			told = append(told, name+": "+r.FormValue("master")+" "+r.FormValue("hardware")+" instead of "+r.FormValue("instead"))
			if _, err := w.Write([]byte("{}")); err != nil {
				t.Error(err)
			}
		})
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		tg.nodes = append(tg.nodes, targetNode{stateNode: stateNode{Name: name}, node: s.URL})
	}
	return tg, func() []string { slices.Sort(told); return told }
}

func TestAdmit(t *testing.T) {
	one := node.Held{Master: "n3", Hardware: "other", Known: "before"}
	for name, test := range map[string]struct {
		held   map[string][]node.Held
		master string
		answer error
		fail   string
		told   []string
	}{
		"one that waits":        {map[string][]node.Held{"n1": {one}, "n2": {one}}, "n3", nil, "", []string{"n1: n3 other instead of before", "n2: n3 other instead of before"}},
		"nobody waits":          {nil, "n3", nil, "no machine waits under the name n3 (3 of 3 nodes answered)", nil},
		"somebody else waits":   {map[string][]node.Held{"n1": {one}}, "n2", nil, "no machine waits under the name n2", nil},
		"two wait":              {map[string][]node.Held{"n1": {one, {Master: "n3", Hardware: "third", Known: "before"}}}, "n3", nil, "2 machines wait", nil},
		"one without a hash":    {map[string][]node.Held{"n1": {{Master: "n3", Known: "before"}}}, "n3", nil, "cannot be admitted", nil},
		"the operator says no":  {map[string][]node.Held{"n1": {one}}, "n3", errors.New("nothing was changed"), "nothing was changed", nil},
		"only the held one saw": {map[string][]node.Held{"n3": {one}}, "n3", nil, "", []string{"n1: n3 other instead of before", "n2: n3 other instead of before"}},
	} {
		t.Run(name, func(t *testing.T) {
			tg, told := machines(t, test.held)
			var out strings.Builder
			err := tg.admit(t.Context(), &out, test.master, func(question string) error {
				if !strings.Contains(question, "off for good") {
					t.Errorf("asked %q", question)
				}
				return test.answer
			})
			if (err == nil) != (test.fail == "") || err != nil && !strings.Contains(err.Error(), test.fail) {
				t.Errorf("%v, want %q", err, test.fail)
			}
			if got := told(); !slices.Equal(got, test.told) {
				t.Errorf("told %q, want %q", got, test.told)
			}
		})
	}
}

func TestConfirmWithoutATerminal(t *testing.T) {
	var out strings.Builder
	if err := confirm(strings.NewReader("y\n"), &out, false, "Sure?"); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("%v", err)
	}
	if err := confirm(strings.NewReader(""), &out, true, "Sure?"); err != nil {
		t.Error(err)
	}
}

// One sentence says what is wrong and what it means for tasks.
func TestStatusSentence(t *testing.T) {
	ready, gone := nodeView{Name: "n1", State: nodeReady, Tasks: 2}, nodeView{Name: "n2", State: nodeUnreachable, Tasks: 3}
	for want, s := range map[string]statusView{
		"Cluster c is well: n1 leads, 1 of 1 node is ready, 2 tasks run.": {Leader: "n1", Nodes: []nodeView{ready}, Tasks: 2},
		"Cluster c works, led by n1, but 1 of 2 nodes are ready: n2 is unreachable; 5 tasks run, 3 of them on nodes that are not heard: these may go on or be lost.": {
			Leader: "n1", Nodes: []nodeView{ready, gone}, Tasks: 5,
		},
		"Cluster c has no leader: what runs goes on, nothing new can start, and nobody is told of what ends. 1 of 3 masters answer, 2 are needed: n2 is unreachable.": {
			Nodes: []nodeView{ready, gone}, Masters: &mastersView{Listed: 3, Answer: 1, Needed: 2},
		},
		"Cluster c has no leader: what runs goes on, nothing new can start, and nobody is told of what ends. 2 of 3 masters answer: n1: waiting for n2.": {
			Masters: &mastersView{Listed: 3, Answer: 2, Needed: 2, Why: "n1: waiting for n2"},
		},
		"Cluster c has no leader: what runs goes on, nothing new can start, and nobody is told of what ends. 3 of 3 masters answer, and an election takes a moment.": {
			Masters: &mastersView{Listed: 3, Answer: 3, Needed: 2},
		},
		"Cluster c has no leader: what runs goes on, nothing new can start, and nobody is told of what ends. no node is missing.": {},
		"Cluster c works, led by n1, but 1 of 1 node is ready: another machine than the cluster knows answers as n3 (hardware other for before), and has no vote until `lith nodes admit n3`; 2 tasks run.": {
			Leader: "n1", Nodes: []nodeView{ready}, Tasks: 2, Held: []node.Held{{Master: "n3", Hardware: "other", Known: "before"}},
		},
	} {
		s.Cluster = "c"
		if s.judge(); s.Summary != want {
			t.Errorf("%s\nwant %s", s.Summary, want)
		}
	}
}
