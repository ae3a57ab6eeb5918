package offers

import (
	"errors"
	"testing"

	"github.com/mesolith/mesolith/clusterd/state"
)

func cpus(n int64) state.Resources {
	return state.Resources{{Name: state.CPUs, Kind: state.ScalarKind, Milli: n * 1000}}
}

func TestTake(t *testing.T) {
	tests := []struct {
		name  string
		ids   func(a, b, other, foreign Offer) []ID
		want  error
		taken int
		left  int
	}{
		{"one", func(a, b, o, f Offer) []ID { return []ID{a.ID} }, nil, 1, 3},
		{"two of one agent", func(a, b, o, f Offer) []ID { return []ID{a.ID, b.ID} }, nil, 2, 2},
		{"two agents", func(a, b, o, f Offer) []ID { return []ID{a.ID, o.ID} }, ErrMixed, 2, 2},
		{"unknown among good ones", func(a, b, o, f Offer) []ID { return []ID{a.ID, "x", b.ID} }, ErrUnknown, 2, 2},
		{"twice", func(a, b, o, f Offer) []ID { return []ID{a.ID, a.ID} }, ErrDuplicate, 1, 3},
		{"another framework's stays", func(a, b, o, f Offer) []ID { return []ID{f.ID} }, ErrForeign, 0, 4},
		{"none", func(a, b, o, f Offer) []ID { return nil }, ErrNone, 0, 4},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			book := New("g", 7, 0)
			a := book.Make("F", "*", "S0", cpus(1), 0)
			b := book.Make("F", "*", "S0", cpus(2), 0)
			other := book.Make("F", "*", "S1", cpus(1), 0)
			foreign := book.Make("G", "*", "S0", cpus(4), 0)
			taken, err := book.Take("F", test.ids(a, b, other, foreign))
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("err = %v, want %v", err, test.want)
			}
			if len(taken) != test.taken || book.Len() != test.left {
				t.Errorf("taken %d, left %d; want %d, %d", len(taken), book.Len(), test.taken, test.left)
			}
		})
	}
}

func TestOfferedIsTheSumOfWhatIsOutstanding(t *testing.T) {
	book := New("g", 7, 0)
	a := book.Make("F", "*", "S0", cpus(1), 0)
	book.Make("G", "*", "S0", cpus(2), 0)
	if got := book.Offered("S0").Milli(state.CPUs); got != 3000 {
		t.Errorf("offered %d", got)
	}
	if a.ID != "g-O7.0" {
		t.Errorf("id %s", a.ID)
	}
	book.Remove(a.ID)
	if _, again := book.Remove(a.ID); again {
		t.Error("removed twice")
	}
	if got := book.Offered("S0").Milli(state.CPUs); got != 2000 {
		t.Errorf("offered %d after removal", got)
	}
	if n := len(book.OfFramework("F")); n != 0 {
		t.Errorf("F has %d offers", n)
	}
}
