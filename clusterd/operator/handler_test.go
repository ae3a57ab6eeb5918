package operator

import (
	"testing"

	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Every call of the master's operator API is served, and what changes something asks for an
// operator.
func TestEveryCallIsServed(t *testing.T) {
	readers := map[master.Call_Type]bool{master.Call_LIST_FILES: true, master.Call_READ_FILE: true}
	for n, name := range master.Call_Type_name {
		kind := master.Call_Type(n)
		if kind == master.Call_UNKNOWN || kind == master.Call_SUBSCRIBE {
			continue
		}
		a, ok := answers[kind]
		if !ok {
			t.Errorf("%s is not served", name)
			continue
		}
		reads := name[:4] == "GET_" || readers[kind]
		if reads != (a.role == nodedoc.RoleReader) || (a.needs == "") != (a.has == nil) {
			t.Errorf("%s may be made by a %s", name, a.role)
		}
	}
}
