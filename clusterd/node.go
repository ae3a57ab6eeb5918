package main

import (
	"context"
	"errors"
	"log/slog"
)

func runNoded([]string) int { return 1 }

func runNode(context.Context, *slog.Logger) error { return errors.New("later") }
