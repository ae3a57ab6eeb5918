package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// counts says how often what really happened.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(what string) { c.addN(what, 1) }

func (c *counts) addN(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what] += n
}

func (c *counts) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[what]
}

func (c *counts) merge(o *counts) {
	for what, n := range o.all() {
		c.addN(what, n)
	}
}

func (c *counts) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

func (c *counts) String() string {
	all := c.all()
	var out []string
	for _, what := range slices.Sorted(maps.Keys(all)) {
		out = append(out, fmt.Sprintf("%s %d", what, all[what]))
	}
	return strings.Join(out, ", ")
}
