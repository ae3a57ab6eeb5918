package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// skewNamed is how far a node's clock may be from the others' before status names it.
const skewNamed = 5 * time.Minute

// clocks asks every node for its time, by the date of its answers, and names those that
// are far from the others'. Nothing in the cluster decides by comparing clocks, but
// certificates end by them and logs are read by them.
func (t *target) clocks(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var mu sync.Mutex
	ahead := map[string]time.Duration{} // of this machine's
	var asking sync.WaitGroup
	for _, n := range t.nodes {
		asking.Go(func() {
			by, err := t.clockOf(ctx, n.api)
			if err != nil {
				return // it does not answer, which is said elsewhere
			}
			mu.Lock()
			defer mu.Unlock()
			ahead[n.Name] = by
		})
	}
	asking.Wait()
	return skewed(ahead)
}

// clockOf says how far a node's clock is ahead of this machine's.
func (t *target) clockOf(ctx context.Context, api string) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api+"/health", nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	resp, err := t.http.Do(req)
	if err != nil {
		return 0, err
	}
	if err := resp.Body.Close(); err != nil {
		return 0, err
	}
	there, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, err
	}
	return there.Sub(began.Add(time.Since(began) / 2)), nil
}

// skewed puts into words whose clock is far from the middle one, and whether that is far
// from this machine's.
func skewed(ahead map[string]time.Duration) []string {
	if len(ahead) == 0 {
		return nil
	}
	var sorted []time.Duration
	var names []string
	for name, by := range ahead {
		sorted, names = append(sorted, by), append(names, name)
	}
	slices.Sort(sorted)
	slices.Sort(names)
	middle := sorted[(len(sorted)-1)/2]
	var out []string
	for _, name := range names {
		if by := ahead[name] - middle; by.Abs() > skewNamed {
			out = append(out, fmt.Sprintf("the clock of %s is %s the others'", name, apart(by)))
		}
	}
	if middle.Abs() > skewNamed {
		out = append(out, fmt.Sprintf("the cluster's clocks are %s this machine's", apart(middle)))
	}
	return out
}

func apart(by time.Duration) string {
	if by < 0 {
		return by.Abs().Round(time.Minute).String() + " behind"
	}
	return by.Round(time.Minute).String() + " ahead of"
}
