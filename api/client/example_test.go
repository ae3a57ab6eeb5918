package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// A framework that runs one command and says how it ended. It runs as it is against
// `bin/clusterd --dev --dir DIR` or a cluster of `lith up`.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.New(client.Config{
		Masters: []string{"http://127.0.0.1:5050"},
		Framework: &mesosv1.FrameworkInfo{
			User: proto.String("root"), Name: proto.String("example"), Roles: []string{"*"},
			Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	l := client.NewLauncher(c, func(t client.Launched) {
		fmt.Println(t.Task.ID, t.Status.GetState(), t.Hostname)
	})
	err = l.Add(ctx, client.Task{
		ID: "hello", CPUs: 0.1, MemMB: 32,
		Command: &mesosv1.CommandInfo{Value: proto.String("echo hello")},
	})
	if err != nil {
		log.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(running) }()
	done, err := l.Wait(ctx, "hello", client.Ended)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ended as", done.Status.GetState())
	if err := c.Teardown(ctx); err != nil {
		log.Fatal(err)
	}
	stop()
	<-ended
}
