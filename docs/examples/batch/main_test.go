package main

import "testing"

func TestCountPrimes(t *testing.T) {
	for _, c := range []struct{ from, to, want int }{{0, 0, 0}, {0, 3, 1}, {0, 10, 4}, {10, 20, 4}, {0, 1000, 168}} {
		if got := countPrimes(c.from, c.to); got != c.want {
			t.Errorf("[%d, %d): %d primes, want %d", c.from, c.to, got, c.want)
		}
	}
}
