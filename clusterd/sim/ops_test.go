package sim

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// ops is the history of calls as those saw it who made them: what began and ended in
// which order. Each task is a register of its own.
type ops struct {
	mu    sync.Mutex
	clock int64
	tasks map[string]*taskOps
	reads int
}

// taskOps are the operations on one task, in the order of their begin.
type taskOps struct {
	list    []porcupine.Operation
	launch  int                          // index of its launch in list
	updates map[mesosv1.TaskState]int    // index of the report of a state
	end     int                          // index of the terminal acknowledgement; -1: none yet
	after   int                          // reads since it was gone
	heard   map[mesosv1.TaskState]int    // how often the framework heard a state
	last    mesosv1.TaskState            // that it heard
	said    map[mesosv1.TaskState]string // messages of states without uuid
}

// step is what an operation does to a task's register.
type step int

// The register's values: what a read may find.
const (
	absent step = iota
	staging
	running
	ended
	gone // ended, and acknowledged
)

func (s step) String() string {
	return [...]string{"absent", "staging", "running", "ended", "gone"}[s]
}

type input struct {
	read bool
	to   step
}

const never = math.MaxInt64

func newOps() *ops { return &ops{tasks: map[string]*taskOps{}} }

// tick gives the next moment; the lock is held.
func (o *ops) tick() int64 { o.clock++; return o.clock }

func (o *ops) task(id string) *taskOps {
	t := o.tasks[id]
	if t == nil {
		t = &taskOps{
			launch: -1, end: -1, updates: map[mesosv1.TaskState]int{}, heard: map[mesosv1.TaskState]int{}, last: mesosv1.TaskState_TASK_STAGING,
			said: map[mesosv1.TaskState]string{},
		}
		o.tasks[id] = t
	}
	return t
}

func (o *ops) begin(t *taskOps, client int, in input) int {
	t.list = append(t.list, porcupine.Operation{ClientId: client, Input: in, Call: o.tick(), Return: never})
	return len(t.list) - 1
}

// Clients in porcupine's sense do one thing at a time: who may do several at once counts as
// one for each.
const (
	byFramework = iota
	byAgent
	byEnd
	byReader
)

func (o *ops) launching(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.task(id)
	t.launch = o.begin(t, byFramework, input{to: staging})
}

// launched: the call was answered with 202.
func (o *ops) launched(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.task(id)
	t.list[t.launch].Return = o.tick()
}

// reported: an agent sends a state; the first time the operation begins.
func (o *ops) reported(id string, s mesosv1.TaskState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.task(id)
	if _, begun := t.updates[s]; begun {
		return
	}
	to := ended
	if s == mesosv1.TaskState_TASK_RUNNING {
		to = running
	}
	t.updates[s] = o.begin(t, byAgent+100*int(to), input{to: to})
}

// heardOf: the framework is told a state; commit comes before telling.
func (o *ops) heardOf(st *mesosv1.TaskStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.task(st.GetTaskId().GetValue())
	t.heard[st.GetState()]++
	t.last = st.GetState()
	if len(st.GetUuid()) == 0 {
		t.said[st.GetState()] = st.GetMessage()
		return
	}
	if i, ok := t.updates[st.GetState()]; ok && t.list[i].Return == never {
		t.list[i].Return = o.tick()
	}
	if st.GetState() != mesosv1.TaskState_TASK_RUNNING && t.end < 0 {
		t.end = o.begin(t, byEnd, input{to: gone}) // the client acknowledges it now
	}
}

// forgotten: the agent hears that the state holds the task no more.
func (o *ops) forgotten(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.task(id); t.end >= 0 && t.list[t.end].Return == never {
		t.list[t.end].Return = o.tick()
	}
}

func (o *ops) reading() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tick()
}

// read is what one answer shows, of every task that was begun before it ended.
func (o *ops) read(client int, call int64, seen map[string]step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reads++
	end := o.tick()
	for id, t := range o.tasks {
		if t.launch < 0 || t.list[t.launch].Call > end {
			continue
		}
		s, ok := seen[id]
		if !ok {
			s = absent
		}
		if s < 0 {
			continue // shown in a way that says nothing of the register
		}
		if t.end >= 0 && t.list[t.end].Return < call {
			if t.after++; t.after > 3 {
				continue // it is gone for good: a few reads say so as well as all
			}
		}
		t.list = append(t.list, porcupine.Operation{ClientId: byReader + client, Input: input{read: true}, Output: s, Call: call, Return: end})
	}
}

// model is one task's register.
var model = porcupine.Model{
	Init: func() any { return absent },
	Step: func(st, in, out any) (bool, any) {
		now, op := st.(step), in.(input)
		if op.read {
			saw := out.(step)
			return saw == now || now == gone && (saw == absent || saw == ended), now
		}
		switch op.to {
		case staging:
			return now == absent, staging
		case running:
			return now == staging, running
		case ended:
			return now == staging || now == running, ended
		default:
			return now == ended, gone
		}
	},
	DescribeOperation: func(in, out any) string {
		if op := in.(input); !op.read {
			return "to " + op.to.String()
		}
		return "read " + out.(step).String()
	},
}

// check gives how many operations are linearizable, and which tasks are not. fate says
// what became of a launch in the log.
func (o *ops) check(fate func(string) launchFate) (checked int, wrong []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, t := range o.tasks {
		if t.launch < 0 {
			wrong = append(wrong, id+": it was heard of and nobody launched it")
			continue
		}
		var list []porcupine.Operation
		for i, op := range t.list {
			if i == t.launch {
				switch fate(id) {
				case launchDone:
				case launchUnknown:
					op.Return = never
				default:
					continue // nothing was launched
				}
			}
			list = append(list, op)
		}
		checked += len(list)
		switch porcupine.CheckOperationsTimeout(model, list, time.Minute) {
		case porcupine.Ok:
		case porcupine.Unknown:
			wrong = append(wrong, id+": not decided in a minute")
		default:
			text := id + ":"
			for _, op := range list {
				text += fmt.Sprintf(" [%d..%d %s]", op.Call, op.Return, model.DescribeOperation(op.Input, op.Output))
			}
			wrong = append(wrong, text)
		}
	}
	return checked, wrong
}
