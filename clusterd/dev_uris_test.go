package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

func fetching(id, command string, uris ...string) client.Task {
	t := shell(id, command)
	for _, u := range uris {
		t.Command.Uris = append(t.Command.Uris, &mesosv1.CommandInfo_URI{Value: proto.String(u)})
	}
	return t
}

// A framework's tasks have their files, and those whose files cannot be had fail with a
// sentence about it.
func TestDevFetchesFiles(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/word" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "fetched")
	}))
	defer s.Close()
	p := newTaskProcesses(t, 1)
	p.start(0)
	l, _ := p.launcher(true)
	if err := l.Add(t.Context(), fetching("has", "grep fetched word", s.URL+"/word"), fetching("lacks", "true", s.URL+"/none"), fetching("asks", "true", "s3://bucket/x")); err != nil {
		t.Fatal(err)
	}
	if s := p.wait(l, "has", client.Ended).Status; s.GetState() != mesosv1.TaskState_TASK_FINISHED {
		t.Errorf("%v", s)
	}
	lacks := p.wait(l, "lacks", client.Ended).Status
	if lacks.GetState() != mesosv1.TaskState_TASK_FAILED || lacks.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED ||
		!strings.Contains(lacks.GetMessage(), s.URL+"/none: the server answers 404 Not Found; check the URI") {
		t.Errorf("%v", lacks)
	}
	asks := p.wait(l, "asks", client.Ended).Status
	if asks.GetState() != mesosv1.TaskState_TASK_ERROR || asks.GetReason() != mesosv1.TaskStatus_REASON_TASK_INVALID || !strings.Contains(asks.GetMessage(), "s3://bucket/x") {
		t.Errorf("%v", asks)
	}
}
