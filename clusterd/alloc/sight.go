package alloc

import "github.com/mesolith/mesolith/clusterd/state"

// kinds are properties of resources that not every framework understands.
type kinds uint8

const (
	refined   kinds = 1 << iota // reserved in more than one step
	shared                      // many tasks may use it at a time
	revocable                   // it may be taken back
	allKinds  kinds = 1<<iota - 1
)

// kindOf is what one resource is of all that.
func kindOf(x *state.Resource) (k kinds) {
	if x.Detail == "" {
		return 0
	}
	if x.Refined() {
		k |= refined
	}
	if x.Shared() {
		k |= shared
	}
	if x.Revocable() {
		k |= revocable
	}
	return k
}

func kindsOf(rs state.Resources) (all kinds) {
	for i := range rs {
		all |= kindOf(&rs[i])
	}
	return all
}

// sight is what a framework understands.
func sight(m *Member) (k kinds) {
	if m.Refined {
		k |= refined
	}
	if m.Shared {
		k |= shared
	}
	if m.Revocable {
		k |= revocable
	}
	return k
}

// views are a part of an agent as frameworks of different sight see it, each made once.
type views struct {
	whole state.Resources
	seen  [allKinds + 1]state.Resources
	made  [allKinds + 1]bool
}

// without is the part without what is of any of the hidden kinds.
func (v *views) without(hidden kinds) state.Resources {
	if hidden == 0 {
		return v.whole
	}
	if !v.made[hidden] {
		v.made[hidden] = true
		for i := range v.whole {
			if kindOf(&v.whole[i])&hidden == 0 {
				v.seen[hidden] = append(v.seen[hidden], v.whole[i])
			}
		}
	}
	return v.seen[hidden]
}
