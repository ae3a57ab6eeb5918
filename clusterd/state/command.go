package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Command is one decision. Kind numbers are in the log for ever and never used again.
type Command interface {
	kind() kind
	encode(*writer)
	// apply changes the state or, with an error, leaves it as it was.
	apply(*State) (Result, error)
}

type kind uint64

const (
	kindBeginGeneration      kind = 1
	kindSubscribeFramework   kind = 2
	kindDisconnectFramework  kind = 3
	kindRemoveFramework      kind = 4
	kindRegisterAgent        kind = 5
	kindMarkUnreachable      kind = 6
	kindLaunchTask           kind = 7
	kindUpdateTask           kind = 8
	kindAcknowledgeUpdate    kind = 9
	kindKillTask             kind = 10
	kindContainersForgotten  kind = 11
	kindNameUser             kind = 12
	kindRaiseHeight          kind = 13
	kindAdoptAgent           kind = 14
	kindAdoptFramework       kind = 15
	kindAdoptTask            kind = 16
	kindEndAdoption          kind = 17
	kindSpreadSubnets        kind = 18
	kindAdmitHardware        kind = 19
	kindUpdateFramework      kind = 20
	kindUpdateWeights        kind = 21
	kindUpdateQuota          kind = 22
	kindActivateAgent        kind = 23
	kindMarkAgentGone        kind = 24
	kindConvertResources     kind = 25
	kindRestoreResources     kind = 26
	kindAcknowledgeOperation kind = 27
	kindDrainAgent           kind = 28
	kindUpdateSchedule       kind = 29
	kindStartMaintenance     kind = 30
	kindStopMaintenance      kind = 31
	kindAnswerInverseOffer   kind = 32
	kindEndDrained           kind = 33
	kindLaunchTasks          kind = 40
	kindAdoptExecution       kind = 41
)

// decoders is the one table of what an entry may hold.
var decoders = map[kind]func(*reader) Command{
	kindBeginGeneration:      decodeBeginGeneration,
	kindSubscribeFramework:   decodeSubscribeFramework,
	kindDisconnectFramework:  decodeDisconnectFramework,
	kindRemoveFramework:      decodeRemoveFramework,
	kindRegisterAgent:        decodeRegisterAgent,
	kindMarkUnreachable:      decodeMarkUnreachable,
	kindLaunchTask:           decodeLaunchTask,
	kindUpdateTask:           decodeUpdateTask,
	kindAcknowledgeUpdate:    decodeAcknowledgeUpdate,
	kindKillTask:             decodeKillTask,
	kindContainersForgotten:  decodeContainersForgotten,
	kindNameUser:             decodeNameUser,
	kindRaiseHeight:          decodeRaiseHeight,
	kindAdoptAgent:           decodeAdoptAgent,
	kindAdoptFramework:       decodeAdoptFramework,
	kindAdoptTask:            decodeAdoptTask,
	kindEndAdoption:          decodeEndAdoption,
	kindSpreadSubnets:        decodeSpreadSubnets,
	kindAdmitHardware:        decodeAdmitHardware,
	kindUpdateFramework:      decodeUpdateFramework,
	kindUpdateWeights:        decodeUpdateWeights,
	kindUpdateQuota:          decodeUpdateQuota,
	kindActivateAgent:        decodeActivateAgent,
	kindMarkAgentGone:        decodeMarkAgentGone,
	kindConvertResources:     decodeConvertResources,
	kindRestoreResources:     decodeRestoreResources,
	kindAcknowledgeOperation: decodeAcknowledgeOperation,
	kindDrainAgent:           decodeDrainAgent,
	kindUpdateSchedule:       decodeUpdateSchedule,
	kindStartMaintenance:     decodeStartMaintenance,
	kindStopMaintenance:      decodeStopMaintenance,
	kindAnswerInverseOffer:   decodeAnswerInverseOffer,
	kindEndDrained:           decodeEndDrained,
	kindLaunchTasks:          decodeLaunchTasks,
	kindAdoptExecution:       decodeAdoptExecution,
}

// Result is what became of one command.
type Result struct {
	Err         error // the command was refused
	FrameworkID FrameworkID
	AgentID     AgentID
	Events      []Event
}

// Event is what a command did besides what its proposer asked for: what somebody must
// be told.
type Event struct {
	Framework FrameworkID
	Task      TaskID
	Container ContainerID
	Agent     AgentID
	Executor  ExecutorID // ExecutorEnded
	Change    Change
	Status    Status // StatusChanged: made by the cluster, needs no acknowledgement
}

// Change says what an event is about.
type Change uint8

const (
	// StatusChanged: the framework must hear Status.
	StatusChanged Change = iota + 1
	// KillWanted: the agent must end the container.
	KillWanted
	// AgentEnded: the agent's id is gone for good.
	AgentEnded
	// AcknowledgeWanted: the agent need not send this update again.
	AcknowledgeWanted
	// ForgetWanted: the state holds the container no more, the agent may forget it.
	ForgetWanted
	// ExecutorEnded: the framework must hear that the executor is no more, with Status.
	ExecutorEnded
)

// Applied is what Machine.Apply gives for one entry.
type Applied struct {
	Results  []Result    // one a command, in order
	Finished []Task      // taken out of the state by this entry
	Ended    []Framework // removed by this entry
	Err      error       // the entry could not be read: fatal to this replica (ErrFatal)
}

// Fatal is the error after which no other entry may be applied.
func (a Applied) Fatal() error { return a.Err }

// ErrFatal says that an entry is of a kind or format this program does not know, or
// damaged. A replica that meets it must stop: to go on would be to differ.
var ErrFatal = errors.New("entry cannot be applied by this program")

// entryFormat is the version of the entry's own layout.
const entryFormat = 1

// EncodeEntry packs commands into one entry: format, time, n × (kind, length, body),
// CRC-32C. It takes as many from the front as fit in limit bytes, at least one, and says
// how many that were.
func EncodeEntry(timeNS int64, commands []Command, limit int) (entry []byte, taken int) {
	var bodies, one writer
	for _, c := range commands {
		one.buf = one.buf[:0]
		c.encode(&one)
		if taken > 0 && len(bodies.buf)+len(one.buf)+32 > limit {
			break
		}
		bodies.uint(uint64(c.kind()))
		bodies.bytes(one.buf)
		taken++
	}
	w := writer{buf: make([]byte, 0, len(bodies.buf)+32)}
	w.uint(entryFormat)
	w.int(timeNS)
	w.uint(uint64(taken))
	w.buf = append(w.buf, bodies.buf...)
	return binary.BigEndian.AppendUint32(w.buf, crc32.Checksum(w.buf, castagnoli)), taken
}

// maxCommand bounds one command's body in bytes.
const maxCommand = 16 << 20

// DecodeEntry reads an entry; any error is ErrFatal.
func DecodeEntry(entry []byte) (timeNS int64, commands []Command, err error) {
	if len(entry) < 4 || crc32.Checksum(entry[:len(entry)-4], castagnoli) != binary.BigEndian.Uint32(entry[len(entry)-4:]) {
		return 0, nil, fmt.Errorf("checksum of an entry of %d bytes: %w", len(entry), ErrFatal)
	}
	r := &reader{buf: entry[: len(entry)-4 : len(entry)-4]}
	if f := r.uint(); f != entryFormat {
		return 0, nil, fmt.Errorf("entry of format %d, this program knows %d: %w", f, entryFormat, ErrFatal)
	}
	timeNS = r.int()
	n := r.count()
	for range n {
		k := kind(r.uint())
		size := r.uint()
		if size > maxCommand {
			r.fail("command length")
		}
		body := &reader{buf: r.raw(size)}
		if r.err != nil {
			break
		}
		decode, ok := decoders[k]
		if !ok {
			return 0, nil, fmt.Errorf("command of kind %d: %w", k, ErrFatal)
		}
		c := decode(body)
		if err := body.done(); err != nil {
			return 0, nil, fmt.Errorf("command of kind %d: %w: %w", k, err, ErrFatal)
		}
		commands = append(commands, c)
	}
	if err := r.done(); err != nil {
		return 0, nil, fmt.Errorf("entry: %w: %w", err, ErrFatal)
	}
	return timeNS, commands, nil
}

// Apply carries out an entry. Refused commands leave the state untouched and say so in
// their Result; an unreadable entry changes nothing at all.
func (s *State) Apply(index uint64, entry []byte) Applied {
	if len(entry) == 0 { // an empty entry only proves that the log moves
		s.index = max(s.index, index)
		return Applied{}
	}
	timeNS, commands, err := DecodeEntry(entry)
	if err != nil {
		return Applied{Err: err}
	}
	s.index = max(s.index, index)
	s.timeNS = max(s.timeNS, timeNS)
	s.finished, s.ended = nil, nil
	out := Applied{Results: make([]Result, 0, len(commands))}
	for _, c := range commands {
		r, err := c.apply(s)
		if err != nil {
			r = Result{Err: err}
		}
		out.Results = append(out.Results, r)
	}
	out.Finished, out.Ended = s.finished, s.ended
	return out
}

// Check says whether a command, as it is, can be read back from an entry. What fails it
// must never be proposed: no replica could apply it.
func Check(c Command) error {
	var w writer
	c.encode(&w)
	if len(w.buf) > maxCommand {
		return fmt.Errorf("command of %d bytes, at most %d: %w", len(w.buf), maxCommand, ErrCommandInvalid)
	}
	r := &reader{buf: w.buf}
	decoders[c.kind()](r)
	if err := r.done(); err != nil {
		return fmt.Errorf("%w: %w", ErrCommandInvalid, err)
	}
	return nil
}
