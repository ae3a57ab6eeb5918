package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	followEvery = 250 * time.Millisecond
	maxRecord   = 8 << 10 // bytes of one record of the kernel's log
)

var programName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,40}$`)

// logs gives a program's log: the part before, the newest, and what comes.
func (a *apiServer) logs(w http.ResponseWriter, r *http.Request) {
	program := r.FormValue("program")
	path := filepath.Join(a.n.cfg.LogDir, program)
	if !programName.MatchString(program) || !isFile(path) {
		refuse(w, http.StatusNotFound, "no log of program %.40q; there are %s", program, strings.Join(logNames(a.n.cfg.LogDir), ", "))
		return
	}
	follow, err := strconv.ParseBool(r.FormValue("follow"))
	if err != nil && r.FormValue("follow") != "" {
		refuse(w, http.StatusBadRequest, "follow is 1 or 0, not %.20q", r.FormValue("follow"))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := copyLog(r.Context(), flushing{w}, path, follow); err != nil && r.Context().Err() == nil {
		a.n.cfg.Log.Info("log not sent to its end", "program", program, "error", err)
	}
}

func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

func logNames(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if programName.MatchString(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out
}

// copyLog writes PATH.old and PATH, and with follow what is added, over changes of file.
func copyLog(ctx context.Context, w io.Writer, path string, follow bool) error {
	old, err := os.Open(path + ".old")
	if err == nil {
		_, err = io.Copy(w, old)
		err = errors.Join(err, old.Close())
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for {
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		if !follow {
			return nil
		}
		if err := sleep(ctx, followEvery); err != nil {
			return nil // the caller went away
		}
		if next := replaced(f, path); next != nil {
			_, err := io.Copy(w, f)
			_ = f.Close()
			if f = next; err != nil {
				return err
			}
		}
	}
}

// replaced opens the file that took the path's place, if one did.
func replaced(f *os.File, path string) *os.File {
	have, err := f.Stat()
	if err != nil {
		return nil
	}
	now, err := os.Stat(path)
	if err != nil || os.SameFile(have, now) {
		return nil
	}
	next, err := os.Open(path)
	if err != nil {
		return nil
	}
	return next
}

// flushing sends each write on at once, and gives each its own time.
type flushing struct{ w http.ResponseWriter }

// Write implements io.Writer.
func (f flushing) Write(p []byte) (int, error) {
	control := http.NewResponseController(f.w)
	if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := f.w.Write(p)
	if err == nil {
		err = control.Flush()
	}
	return n, err
}

// dmesg gives the kernel's log as it stands.
func (a *apiServer) dmesg(w http.ResponseWriter, _ *http.Request) {
	fd, err := unix.Open(a.n.cfg.Kmsg, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "open the kernel's log: %v", err)
		return
	}
	defer func() { _ = unix.Close(fd) }()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	buf := make([]byte, maxRecord)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR) {
			continue // records were overwritten while we read: go on with the next
		}
		if err != nil || n == 0 {
			return
		}
		if _, err := io.WriteString(w, kernelLine(string(buf[:n]))); err != nil {
			return
		}
	}
}

// kernelLine makes a line for people of one record: "prio,seq,usec,flags;text\n KEY=…".
func kernelLine(record string) string {
	head, text, ok := strings.Cut(record, ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return record
	}
	text, _, _ = strings.Cut(text, "\n")
	usec, err := strconv.ParseUint(fields[2], 10, 64)
	if err != nil {
		return record
	}
	return fmt.Sprintf("[%5d.%06d] %s\n", usec/1e6, usec%1e6, text)
}
