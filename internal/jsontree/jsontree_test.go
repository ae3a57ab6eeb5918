package jsontree

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each value knows where it stands, in characters.
func TestPlaces(t *testing.T) {
	got, bad := Parse([]byte("{\n  \"é\": [1, \"two\", null],\n\t\"b\" : {\"c\":true}\n}"), 100)
	if len(bad) > 0 {
		t.Fatal(bad)
	}
	want := &Node{Kind: Mapping, Line: 1, Col: 1, Entries: []Entry{
		{"é", 2, 3, &Node{Kind: List, Line: 2, Col: 8, Items: []*Node{
			{Text: "1", Line: 2, Col: 9}, {Text: "two", Line: 2, Col: 12}, {Kind: Null, Line: 2, Col: 19},
		}}},
		{"b", 3, 2, &Node{Kind: Mapping, Line: 3, Col: 8, Entries: []Entry{{"c", 3, 9, &Node{Text: "true", Line: 3, Col: 13}}}}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"run_tasks", "view_tasks"}
	for word, want := range map[string]string{"run_task": "run_tasks", "view-tasks": "view_tasks", "x": "", strings.Repeat("run_tasks", 9000): ""} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%.20s: %q, want %q", word, got, want)
		}
	}
}

// A text is a tree exactly if it is JSON within the bounds; the tree is within them.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"a":[1,2,{"b":null}],"c":"d"}`))
	f.Add([]byte("{\"a\":1,\n\"a\":2}"))
	f.Add([]byte("\xff"))
	f.Add([]byte(`[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, bad := Parse(text, 1000)
		if len(bad) == 0 {
			if !json.Valid(text) || len(text) > 1000 {
				t.Error("taken, and it is no JSON or too long")
			}
			walk(t, n, 0)
			return
		}
		if n != nil || !strings.HasSuffix(bad[0].Text, ".") && !strings.HasSuffix(bad[0].Text, "?") || bad[0].Line < 1 || bad[0].Col < 1 {
			t.Errorf("%+v", bad)
		}
	})
}

func walk(t *testing.T, n *Node, depth int) {
	if depth > MaxDepth || n.Line < 1 || n.Col < 1 {
		t.Errorf("%+v at depth %d", n, depth)
	}
	seen := map[string]bool{}
	for _, e := range n.Entries {
		if seen[e.Key] {
			t.Errorf("key %q twice", e.Key)
		}
		seen[e.Key] = true
		walk(t, e.Value, depth+1)
	}
	for _, item := range n.Items {
		walk(t, item, depth+1)
	}
}
