package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// A task has the volumes and secrets that it brings along, and nobody else is told the latter.
func TestDevVolumesAndSecrets(t *testing.T) {
	p := newTaskProcesses(t, 1)
	p.start(0)
	l, _ := p.launcher(true)
	shared := t.TempDir()
	secret := &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("aGlkZGVu-hidden")}}
	task := shell("has", `test "$S" = "$(cat key)" && echo done > there/f && sleep 100000`)
	task.Command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{
		{Name: proto.String("S"), Type: mesosv1.Environment_Variable_SECRET.Enum(), Secret: secret},
	}}
	task.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: []*mesosv1.Volume{
		{ContainerPath: proto.String("key"), Mode: mesosv1.Volume_RO.Enum(), Source: &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: secret}},
		{ContainerPath: proto.String("there"), Mode: mesosv1.Volume_RW.Enum(), HostPath: &shared},
	}}
	if err := l.Add(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	p.eventually("what the task writes", func() bool {
		raw, err := os.ReadFile(filepath.Join(shared, "f"))
		return err == nil && string(raw) == "done\n"
	})
	p.wait(l, "has", client.Running)
	for _, port := range []string{p.api(0), p.agentAPI(0)} {
		if _, text := p.get("http://" + port + "/state"); strings.Contains(text, "idden") || strings.Contains(text, base64.StdEncoding.EncodeToString(secret.GetValue().GetData())) {
			t.Errorf("/state at %s tells the secret", port)
		}
		for _, call := range []string{"GET_STATE", "GET_TASKS", "GET_EXECUTORS"} {
			resp, err := http.Post("http://"+port+"/api/v1", "application/json", strings.NewReader(`{"type":"`+call+`"}`))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || strings.Contains(string(text), base64.StdEncoding.EncodeToString(secret.GetValue().GetData())) {
				t.Errorf("%s at %s: %d, %v: %s", call, port, resp.StatusCode, err, text)
			}
			if call != "GET_EXECUTORS" && !strings.Contains(string(text), `"key"`) {
				t.Errorf("%s at %s says nothing of the volume", call, port)
			}
		}
	}
}
