// Command pull is the puller alone.
package main

import (
	"os"

	"github.com/mesolith/mesolith/isolation/images"
)

func main() { os.Exit(images.Main(os.Args[1:], os.Stdin, os.Stderr)) }
