//go:build !faults

package main

import (
	"context"
	"log/slog"
)

// inventory is for tests only; see inventory_faults.go.
func inventory(context.Context, flags, *slog.Logger) {}
