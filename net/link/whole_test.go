package link

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWholeReadsAgain(t *testing.T) {
	other := errors.New("other")
	for _, test := range []struct {
		name  string
		fails int
		with  error
		reads int
		want  error
	}{
		{"at once", 0, nil, 1, nil},
		{"at last", attempts - 1, netlink.ErrDumpInterrupted, attempts, nil},
		{"never", attempts, netlink.ErrDumpInterrupted, attempts, netlink.ErrDumpInterrupted},
		{"another error", 1, other, 1, other},
	} {
		reads := 0
		list, err := Whole(func() ([]int, error) {
			if reads++; reads <= test.fails {
				return []int{1}, test.with
			}
			return []int{1, 2}, nil
		})
		if reads != test.reads || !errors.Is(err, test.want) || err == nil && len(list) != 2 {
			t.Errorf("%s: read %d times, %v, %v", test.name, reads, list, err)
		}
	}
}
