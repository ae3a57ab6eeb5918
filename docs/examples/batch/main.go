// Batch is a task of a batch: it counts the primes of one slice of the numbers and ends.
//
// It is an ordinary static program. Put alone into an image it runs as a container; it
// needs no file and no shell. What it prints is in the task's sandbox, and its exit code
// is the task's: 0 when it has counted, 2 when it was asked for nonsense.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	from := flag.Int("from", 0, "first number of the slice")
	to := flag.Int("to", 100_000, "first number behind the slice")
	flag.Parse()
	if *from < 0 || *to < *from {
		fmt.Fprintf(os.Stderr, "a slice goes upwards from 0, not from %d to %d\n", *from, *to)
		os.Exit(2)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed host"
	}
	began := time.Now()
	fmt.Printf("%d primes in [%d, %d), counted on %s in %s\n",
		countPrimes(*from, *to), *from, *to, host, time.Since(began).Round(time.Millisecond))
}

func countPrimes(from, to int) int {
	n := 0
	for i := max(from, 2); i < to; i++ {
		if prime(i) {
			n++
		}
	}
	return n
}

func prime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}
