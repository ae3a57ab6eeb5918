package supervise

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"time"
)

// Bounds of a program's output.
const (
	logBytes     = 4 << 20
	longestLine  = 16 << 10 // longer ones are cut into several
	warnPerBurst = 40       // lines that go to the console in ten seconds
)

// output moves what a program writes into its ring, and warnings to the console too. It
// ends when the last writer of the pipe is gone, so it outlives each single process.
func output(name string, pipe *os.File, log *ring, warn func(format string, args ...any)) {
	in := bufio.NewReaderSize(pipe, longestLine)
	var burst time.Time
	said, losing := 0, false
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			if line[len(line)-1] != '\n' {
				line = append(bytes.Clone(line), '\n')
			}
			// A full /run, or no descriptor left, loses lines of a log, never a program.
			if _, err := log.Write(line); err != nil != losing {
				losing = err != nil
				if losing {
					warn("log of %s loses lines: %v", name, err)
				} else {
					warn("log of %s goes on", name)
				}
			}
			if now := time.Now(); now.Sub(burst) > 10*time.Second {
				burst, said = now, 0
			}
			if said < warnPerBurst && alarming(line) {
				said++
				warn("%s: %s", name, line)
			}
		}
		if err != nil && err != bufio.ErrBufferFull {
			if err != io.EOF {
				warn("output of %s: %v", name, err)
			}
			return
		}
	}
}

// alarming says whether a line is for the console: a warning or error of the structured
// log, or anything that is not of that log, as a panic's trace.
func alarming(line []byte) bool {
	if len(bytes.TrimSpace(line)) == 0 {
		return false
	}
	return line[0] != '{' || bytes.Contains(line, []byte(`"level":"WARN"`)) || bytes.Contains(line, []byte(`"level":"ERROR"`))
}
