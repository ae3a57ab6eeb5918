package state

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"testing"
)

func TestWeights(t *testing.T) {
	s := New()
	do := func(list ...Weight) error {
		entry, _ := EncodeEntry(1e9, []Command{UpdateWeights{list}}, 1<<20)
		return s.Apply(s.index+1, entry).Results[0].Err
	}
	if err := do(Weight{"a", 2}, Weight{"a/b", 0.5}); err != nil {
		t.Fatal(err)
	}
	before := s.Snapshot()
	hash := s.Hash()
	for _, bad := range []Weight{{"x", 0}, {"x", -1}, {"x", math.NaN()}, {"x", math.Inf(1)}, {"", 1}} {
		if err := do(Weight{"a", 9}, bad); !errors.Is(err, ErrCommandInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if now := s.Hash(); now == hash { // the index moves, the weights do not
		t.Error("refused commands are not counted by the index")
	}
	if want := map[string]float64{"a": 2, "a/b": 0.5}; !maps.Equal(s.Weights(), want) {
		t.Errorf("%v after refusals", s.Weights())
	}
	if err := do(Weight{"a", 3}, Weight{"c", 1}); err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if _, err := before.WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	old, _, err := Read(&raw)
	if err != nil {
		t.Fatal(err)
	}
	if old.Hash() != hash {
		t.Error("a snapshot changed after it was taken, or weights are lost in it")
	}
	if want := map[string]float64{"a": 3, "a/b": 0.5, "c": 1}; !maps.Equal(s.Weights(), want) {
		t.Errorf("%v", s.Weights())
	}
}
