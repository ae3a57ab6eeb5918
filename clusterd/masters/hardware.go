package masters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	birthwire "github.com/mesolith/mesolith/internal/wire/birth"
)

// Hardware is what main hands in about the machines that carry masters' names. The zero
// value knows nothing and holds nobody; otherwise all functions are there.
type Hardware struct {
	Own string // this machine's hash; empty: nobody can tell
	// Known is what the replicated state holds, by name; Learn puts one there, on the
	// leader.
	Known func() map[string]string
	Learn func(ctx context.Context, name, hardware string) error
	// Admitted is what an operator said on this machine, by name.
	Admitted func() map[string]birth.Word
}

// ErrNotYet is Learn's answer while the term is not ready for commands.
var ErrNotYet = errors.New("the term is only beginning")

// rememberHardware keeps what the state knows beside the log: a program that is started
// again has applied none of it before there is a leader, and must know it before.
func (m *Masters) rememberHardware() {
	if m.cfg.Hardware.Known == nil {
		return
	}
	now := m.cfg.Hardware.Known()
	if own := m.cfg.Hardware.Own; own != "" && now[m.cfg.Self] == own {
		m.ownHold = ""
	}
	if len(now) == 0 || maps.Equal(now, m.hardware) {
		return
	}
	raw, err := json.Marshal(now)
	if err == nil {
		err = hardwareKind.Write(filepath.Join(m.cfg.Dir, "hardware"), raw)
	}
	if err != nil {
		m.log.Error("the masters' hardware cannot be written down", "error", err)
		return
	}
	m.hardware = maps.Clone(now)
}

func (m *Masters) recallHardware() error {
	path := filepath.Join(m.cfg.Dir, "hardware")
	raw, err := hardwareKind.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &m.hardware); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// told is what this master knows now. Its maps are never changed.
func (m *Masters) told() birth.Told {
	t := birth.Told{Known: m.hardware}
	if m.cfg.Hardware.Known != nil {
		t.Admitted = m.cfg.Hardware.Admitted()
	}
	return t
}

// judge sorts what answered a leader's question. What the state has to learn comes before
// any change of membership; the next step goes on.
func (m *Masters) judge(ctx context.Context, answers map[string]birth.Living) (living map[string]string, wait bool, err error) {
	var told birth.Told
	if m.cfg.Hardware.Known != nil {
		told = birth.Told{Known: m.cfg.Hardware.Known(), Admitted: m.cfg.Hardware.Admitted()}
	}
	v := birth.Judge(answers, told)
	m.setHeld(v.Held)
	for _, l := range v.Learn {
		if err := m.cfg.Hardware.Learn(ctx, l.Name, l.Hardware); errors.Is(err, ErrNotYet) {
			return nil, true, nil
		} else if err != nil {
			return nil, true, err
		}
		if l.Known != "" {
			m.log.Warn("another machine carries a master's name from now on, by an operator's word", "master", l.Name, "hardware", l.Hardware, "before", l.Known)
		} else {
			m.log.Info("hardware of a master noted", "master", l.Name, "hardware", l.Hardware)
		}
	}
	return v.Living, len(v.Learn) > 0, nil
}

// setHeld tells status, and once the log, what waits for the operator.
func (m *Masters) setHeld(held []birth.Held) {
	m.mu.Lock()
	before := m.held
	m.held = held
	m.mu.Unlock()
	for _, h := range held {
		if !slices.Contains(before, h) {
			m.log.Warn("a machine is held", "why", h.String())
		}
	}
}

func hardwareToWire(all map[string]string) []*birthwire.Hardware {
	var out []*birthwire.Hardware
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, &birthwire.Hardware{Name: name, Hash: all[name]})
	}
	return out
}

func hardwareOf(list []*birthwire.Hardware) map[string]string {
	if len(list) == 0 {
		return nil
	}
	out := make(map[string]string, len(list))
	for _, h := range list {
		out[h.GetName()] = h.GetHash()
	}
	return out
}

func wordsToWire(all map[string]birth.Word) []*birthwire.Word {
	var out []*birthwire.Word
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, &birthwire.Word{Name: name, Hash: all[name].Hardware, Instead: all[name].Instead})
	}
	return out
}

func wordsOf(list []*birthwire.Word) map[string]birth.Word {
	if len(list) == 0 {
		return nil
	}
	out := make(map[string]birth.Word, len(list))
	for _, w := range list {
		out[w.GetName()] = birth.Word{Hardware: w.GetHash(), Instead: w.GetInstead()}
	}
	return out
}

// livingOf is an answer to a leader's question.
func livingOf(a *birthwire.Answer) birth.Living {
	return birth.Living{Incarnation: a.GetIncarnation(), Hardware: a.GetHardware(), Admitted: wordsOf(a.GetAdmitted())}
}

// noteOwnHold remembers, for people, that the cluster knows another machine under this name.
func (m *Masters) noteOwnHold(a *birthwire.Answer) {
	known, own := hardwareOf(a.GetKnown())[m.cfg.Self], m.cfg.Hardware.Own
	word := wordsOf(a.GetAdmitted())[m.cfg.Self]
	if known == "" {
		return
	}
	m.ownHold = ""
	if known != own && (own == "" || word != birth.Word{Hardware: own, Instead: known}) {
		m.ownHold = birth.Held{Name: m.cfg.Self, Hardware: own, Known: known}.String()
	}
}
