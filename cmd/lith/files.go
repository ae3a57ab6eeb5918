package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// followEvery is how often a file that grows is asked for more.
const followEvery = 200 * time.Millisecond

// sandboxFile is a file in a task's sandbox, read through its agent's API.
type sandboxFile struct {
	target *target
	agent  string // URL of the agent's port
	path   string // as /files takes it
	offset int64  // how much was copied already
}

// life is one run of a task on an agent.
type life struct{ agent, framework, task, container string }

func lifeOf(t *mesosv1.Task) life {
	l := life{agent: t.GetAgentId().GetValue(), framework: t.GetFrameworkId().GetValue(), task: t.GetTaskId().GetValue()}
	for _, s := range t.GetStatuses() {
		if id := s.GetContainerStatus().GetContainerId().GetValue(); id != "" {
			l.container = id
		}
	}
	return l
}

// sandbox names a file of a task's life, also of one that has ended. A command task's
// executor has the task's id.
func (t *target) sandbox(ctx context.Context, agent string, l life, name string) (*sandboxFile, error) {
	f := &sandboxFile{target: t, agent: agent}
	if l.container == "" { // known while it runs
		f.path = path.Join("/frameworks", l.framework, "executors", l.task, "runs/latest", name)
		return f, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, agent+"/state", nil)
	if err != nil {
		return nil, err
	}
	raw, err := t.do(req)
	if err != nil {
		return nil, err
	}
	var state struct {
		Flags struct {
			WorkDir string `json:"work_dir"`
		} `json:"flags"`
	}
	if err := json.Unmarshal(raw, &state); err != nil || state.Flags.WorkDir == "" {
		return nil, fmt.Errorf("%s/state does not say where sandboxes are: %w", agent, err)
	}
	f.path = path.Join(state.Flags.WorkDir, "slaves", l.agent, "frameworks", l.framework, "executors", l.task, "runs", l.container, name)
	return f, nil
}

// copy writes what is new in the file and reports how much that was. Bytes come as they
// are: they are asked for as a range of a download, not as text in JSON.
func (f *sandboxFile) copy(ctx context.Context, w io.Writer) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	at := f.agent + "/files/download?" + url.Values{"path": {f.path}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.offset))
	resp, err := f.target.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		// Nothing new, or a new file: a full one was put aside.
		var size int64
		if n, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes */%d", &size); n == 1 && err == nil && size < f.offset {
			f.offset = 0
		}
		return 0, nil
	case http.StatusPartialContent:
	case http.StatusOK: // the whole file, which only an empty one or a server without ranges gives
		if _, err := io.CopyN(io.Discard, resp.Body, f.offset); errors.Is(err, io.EOF) {
			return 0, nil
		} else if err != nil {
			return 0, fmt.Errorf("read %s: %w", at, err)
		}
	default:
		text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", at, err)
		}
		return 0, &refusedError{url: at, code: resp.StatusCode, text: string(text)}
	}
	n, err := io.Copy(w, resp.Body)
	f.offset += n
	if err != nil {
		return n, fmt.Errorf("read %s: %w", at, err)
	}
	return n, nil
}

// follow copies a file as it grows, until ended is closed and nothing new came after it.
func (f *sandboxFile) follow(ctx context.Context, w io.Writer, ended <-chan struct{}) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	last := false
	for {
		n, err := f.copy(ctx, w)
		if err != nil && (last || !mayPass(err)) {
			return err
		}
		if last && n == 0 {
			return nil
		}
		if last {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			last = true // and once more: the end may have come after the copy
		case <-tick.C:
		}
	}
}

// mayPass says that a file may still appear, or its agent come back.
func mayPass(err error) bool {
	var refused *refusedError
	if errors.As(err, &refused) {
		return refused.code == http.StatusNotFound || refused.code >= 500
	}
	return !errors.Is(err, context.Canceled)
}
