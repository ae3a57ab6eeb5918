package state

import (
	"fmt"
	"maps"
	"slices"
)

// Bounds of what is remembered of masters' machines.
const (
	maxHardware     = 64
	maxHardwareName = 256 // bytes of a name, and of a machine's hash
)

// AdmitHardware says which machine carries a master's name: the one seen first, later the
// one that the operator admitted in its place. Another one under that name has no vote.
type AdmitHardware struct {
	Name     string // of the master
	Hardware string // hash of what the hardware says of itself
}

func (AdmitHardware) kind() kind { return kindAdmitHardware }

func (c AdmitHardware) encode(w *writer) {
	w.string(c.Name)
	w.string(c.Hardware)
}

func decodeAdmitHardware(r *reader) Command {
	return AdmitHardware{Name: r.string(), Hardware: r.string()}
}

func (c AdmitHardware) apply(s *State) (Result, error) {
	if c.Name == "" || len(c.Name) > maxHardwareName || c.Hardware == "" || len(c.Hardware) > maxHardwareName {
		return Result{}, fmt.Errorf("machine of %d bytes for a master's name of %d: %w", len(c.Hardware), len(c.Name), ErrCommandInvalid)
	}
	if _, known := s.hardware[c.Name]; !known && len(s.hardware) >= maxHardware {
		return Result{}, fmt.Errorf("%d masters' machines: %w", maxHardware, ErrListFull)
	}
	s.setHardware(c.Name, c.Hardware)
	return Result{}, nil
}

// setHardware replaces the map: snapshots share the one before.
func (s *State) setHardware(name, hardware string) {
	next := maps.Clone(s.hardware)
	if next == nil {
		next = map[string]string{}
	}
	next[name] = hardware
	s.hardware = next
}

// Hardware gives the machine of each master that one is known of. The map is never
// changed, by its readers neither.
func (s *State) Hardware() map[string]string { return s.hardware }

// writeHardware writes a record for each, in the names' order.
func (s *State) writeHardware(put func(kind uint64, f func(*writer))) {
	for _, name := range slices.Sorted(maps.Keys(s.hardware)) {
		put(recordHardware, func(w *writer) {
			w.string(name)
			w.string(s.hardware[name])
		})
	}
}

func (s *State) restoreHardware(name, hardware string) error {
	if _, twice := s.hardware[name]; twice || name == "" || hardware == "" || len(s.hardware) >= maxHardware {
		return ErrCorrupt
	}
	s.setHardware(name, hardware)
	return nil
}
