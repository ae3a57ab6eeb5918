package cluster

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// Kind says what an Event is about.
type Kind int

// Kinds of events.
const (
	PoweredOn Kind = iota + 1
	Phase          // a boot phase ended: Text is its name and outcome
	Up             // PID 1 says that the machine is up
	Trouble        // a line that a person should read
	Ended          // the machine is off
)

// Event is a step that a person can follow.
type Event struct {
	Node  string
	Kind  Kind
	Text  string
	Since time.Duration // since the machine's power-on, as the host measured it
}

const consolePrefix = "mesolith: "

// follow turns a console's lines into events until the machine is off.
func (m *Machine) follow(v *vm.VM, began time.Time) {
	report := m.cluster.cfg.Progress
	at := 0
	for {
		// Every line matters, so the wait is for any.
		_, err := v.Console.Wait(context.Background(), at, "")
		for _, line := range v.Console.Lines(at) {
			at++
			if e, ok := readLine(line.Text); ok {
				e.Node, e.Since = m.Node.Name, line.At.Sub(began)
				report(e)
			}
		}
		if err != nil {
			report(Event{Node: m.Node.Name, Kind: Ended, Since: time.Since(began)})
			return
		}
	}
}

// readLine understands the lines that PID 1 prints, and the kernel's loudest ones.
func readLine(line string) (Event, bool) {
	if strings.Contains(line, "Kernel panic") || strings.Contains(line, "Initramfs unpacking failed") {
		return Event{Kind: Trouble, Text: line}, true
	}
	_, text, found := strings.Cut(line, consolePrefix)
	if !found {
		return Event{}, false
	}
	words := strings.Fields(text)
	switch {
	case len(words) == 2 && words[0] == "up" && isSeconds(words[1]):
		return Event{Kind: Up, Text: words[1]}, true
	case len(words) >= 4 && words[0] == "phase" && isSeconds(words[2]):
		return Event{Kind: Phase, Text: strings.Join(words[1:], " ")}, true
	}
	return Event{Kind: Trouble, Text: text}, true
}

func isSeconds(s string) bool {
	number, found := strings.CutSuffix(s, "s")
	_, err := strconv.ParseFloat(number, 64)
	return found && err == nil
}
