package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

const (
	demoTasks   = 6
	demoSlice   = 200_000 // numbers that each task looks at
	demoTimeout = 4 * time.Minute
)

// demo runs a batch and a service, made of the programs under docs/examples, on the
// cluster of a directory.
func demo(ctx context.Context, dir string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	state, err := readClusterState(dir)
	if err != nil {
		return err
	}
	images := map[string]string{}
	for _, program := range []string{"batch", "hello"} {
		if images[program], err = publishExample(ctx, dir, state, program); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\nimages of docs/examples/{batch,hello} are in the cluster's registry, %s\n", state.Doors.RegistryHost)
	if err := demoBatch(ctx, dir, state, images["batch"], out); err != nil {
		return err
	}
	answer, err := askService(ctx, dir, serviceSpec{Name: "hello", Image: images["hello"]})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "service hello: %s answers (from agent %s); the supervisor starts it again when it ends\n", answer.URL, answer.Host)
	return nil
}

// publishExample builds an example as a static program and pushes an image of it.
func publishExample(ctx context.Context, dir string, state clusterState, program string) (string, error) {
	checkout, err := findCheckout()
	if err != nil {
		return "", fmt.Errorf("the demo builds its examples from sources: %w", err)
	}
	binary := filepath.Join(dir, "examples", program)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, "./docs/examples/"+program)
	cmd.Dir = checkout
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build example %s: %w\n%s", program, err, said)
	}
	img, err := cluster.ProgramImage(binary)
	if err != nil {
		return "", err
	}
	tag, err := name.NewTag(state.Doors.Registry+"/examples/"+program+":latest", name.Insecure)
	if err != nil {
		return "", fmt.Errorf("push example %s: %w", program, err)
	}
	direct := &http.Transport{DisableKeepAlives: true}
	if err := remote.Write(tag, img, remote.WithContext(ctx), remote.WithTransport(direct)); err != nil {
		return "", fmt.Errorf("push example %s: %w", program, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("push example %s: %w", program, err)
	}
	return state.Doors.RegistryHost + "/examples/" + program + "@" + digest.String(), nil
}

// demoBatch runs the tasks of a batch and shows how each one goes.
func demoBatch(ctx context.Context, dir string, state clusterState, image string, out io.Writer) error {
	transport, err := operatorTransport(dir)
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{
		Masters: []string{"https://" + state.Doors.API}, HTTP: &http.Client{Transport: transport(nil)},
		Framework: frameworkInfo("demo-batch"),
	})
	if err != nil {
		return err
	}
	began := time.Now()
	show := &batchView{out: out, began: began, names: nodeNames(state)}
	tasks := client.NewLauncher(c, show.update)
	for i := range demoTasks {
		from := strconv.Itoa(i * demoSlice)
		to := strconv.Itoa((i + 1) * demoSlice)
		err := tasks.Add(ctx, client.Task{
			ID: "primes-" + strconv.Itoa(i), CPUs: 0.2, MemMB: 32, Container: imageContainer(image),
			Command: &mesosv1.CommandInfo{
				Shell: proto.Bool(false), Value: proto.String("/program"),
				Arguments: []string{"program", "-from", from, "-to", to},
			},
		})
		if err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "batch: %d tasks count primes\n", demoTasks)
	running, stop := context.WithCancel(ctx)
	var framework sync.WaitGroup
	framework.Go(func() { _ = tasks.Run(running) }) // Wait below tells how it ended
	defer framework.Wait()
	defer stop()
	for i := range demoTasks {
		id := "primes-" + strconv.Itoa(i)
		t, err := tasks.Wait(ctx, id, client.Ended)
		if err != nil {
			return err
		}
		if got := t.Status.GetState(); got != mesosv1.TaskState_TASK_FINISHED {
			return fmt.Errorf("task %s of the batch ended as %s: %s", id, got, t.Status.GetMessage())
		}
	}
	fmt.Fprintf(out, "batch: %d of %d finished after %.1f s\n", demoTasks, demoTasks, time.Since(began).Seconds())
	return c.Teardown(ctx)
}

// batchView prints a line for each change of a task.
type batchView struct {
	out   io.Writer
	began time.Time
	names map[string]string
	last  sync.Map // task id → state printed last
}

func (v *batchView) update(t client.Launched) {
	if t.Status == nil {
		return
	}
	now := t.Status.GetState()
	if was, seen := v.last.Swap(t.Task.ID, now); seen && was == now {
		return
	}
	node := v.names[t.Hostname]
	if node == "" {
		node = t.Hostname
	}
	text := fmt.Sprintf("%s %s on %s %s", t.Task.ID, now, node, t.Status.GetMessage())
	fmt.Fprintf(v.out, "%6.1f s  %s\n", time.Since(v.began).Seconds(), strings.TrimSpace(text))
}

func nodeNames(state clusterState) map[string]string {
	names := map[string]string{}
	for _, n := range state.Nodes {
		names[n.Address] = n.Name
	}
	return names
}

// askService asks the supervisor to keep a service alive and waits for its URL.
func askService(ctx context.Context, dir string, spec serviceSpec) (serviceAnswer, error) {
	body, err := json.Marshal(spec)
	if err != nil {
		return serviceAnswer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://supervisor/service", bytes.NewReader(body))
	if err != nil {
		return serviceAnswer{}, err
	}
	resp, err := supervisorClient(dir).Do(req)
	if err != nil {
		return serviceAnswer{}, fmt.Errorf("ask for service %s: %w", spec.Name, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return serviceAnswer{}, fmt.Errorf("ask for service %s: %w", spec.Name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return serviceAnswer{}, fmt.Errorf("ask for service %s: %s", spec.Name, raw)
	}
	var answer serviceAnswer
	if err := json.Unmarshal(raw, &answer); err != nil {
		return serviceAnswer{}, fmt.Errorf("ask for service %s: %w", spec.Name, err)
	}
	if answer.Error != "" {
		return answer, errors.New(answer.Error)
	}
	return answer, nil
}
