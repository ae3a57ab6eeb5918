//go:build vm

package qemutests

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/mesolith/mesolith/api/client"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// output reads a task's file out of its sandbox, from the agent.
func (f *framework) output(t *testing.T, l client.Launched, file string) string {
	t.Helper()
	body, err := f.tryOutput(t, l, file)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// tryOutput is output where the node's programs may be away.
func (f *framework) tryOutput(t *testing.T, l client.Launched, file string) (string, error) {
	path := "/frameworks/" + f.client.FrameworkID() + "/executors/" + l.Task.ID + "/runs/latest/" + file
	at := fmt.Sprintf("https://%s:%d/files/download?path=%s", l.Hostname, cluster.AgentPort, path)
	req, err := http.NewRequestWithContext(within(t, toRun), http.MethodGet, at, nil)
	if err != nil {
		return "", err
	}
	resp, err := f.world.Client().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s, %v: %.300s", at, resp.Status, err, body)
	}
	return string(body), nil
}
