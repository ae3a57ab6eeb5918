package main

import (
	"errors"

	"github.com/mesolith/mesolith/isolation/run"
	"github.com/mesolith/mesolith/isolation/serve"
)

func containers(*run.Config, flags, *serve.Server) error {
	return errors.New("containers: written next")
}
