package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

func tasksCommand() *cobra.Command {
	var f targetFlags
	var asJSON, running bool
	cmd := &cobra.Command{
		Use: "tasks", Short: "List the tasks that run and those that ran lately",
		Example: "  lith tasks\n  lith tasks --running\n  lith tasks --json | jq -r '.[].id'",
		Args:    noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := f.open()
			if err != nil {
				return err
			}
			all, err := t.tasks(cmd.Context())
			if err != nil {
				return err
			}
			if running {
				all = slices.DeleteFunc(all, taskView.ended)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), append([]taskView{}, all...))
			}
			rows := make([][]string, 0, len(all))
			for _, v := range all {
				state := strings.ToLower(strings.TrimPrefix(v.State, "TASK_"))
				rows = append(rows, []string{v.ID, state, v.Node, v.Address, v.Framework, v.Changed})
			}
			return printTable(cmd.OutOrStdout(), []string{"TASK", "STATE", "NODE", "ADDRESS", "FRAMEWORK", "SINCE"}, rows)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&running, "running", false, "only tasks that have not ended")
	return cmd
}

func logsCommand() *cobra.Command {
	var f targetFlags
	var follow, stderr bool
	cmd := &cobra.Command{
		Use: "logs TASK", Short: "Show what a task has written",
		Long: `Show a task's stdout (or --stderr) out of its sandbox. TASK is its id or enough of its
beginning. With -f more is shown as it is written, until the task ends.`,
		Example: "  lith logs echo-1a2b3c4d\n  lith logs -f echo --stderr",
		Args:    oneTask, ValidArgsFunction: first(completeTasks(&f, false)),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.open()
			if err != nil {
				return err
			}
			name := "stdout"
			if stderr {
				name = "stderr"
			}
			return t.logs(cmd.Context(), cmd.OutOrStdout(), args[0], name, follow)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the task ends")
	cmd.Flags().BoolVar(&stderr, "stderr", false, "stderr instead of stdout")
	return cmd
}

func oneTask(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("name one task: `lith tasks` lists them")
	}
	return nil
}

func (t *target) logs(ctx context.Context, w io.Writer, id, name string, follow bool) error {
	v, err := t.findTask(ctx, id)
	if err != nil {
		return err
	}
	if v.agent == nil {
		return fmt.Errorf("task %s ran on agent %s, which is gone with its sandbox: nothing of its output is left", v.ID, v.task.GetAgentId().GetValue())
	}
	file, err := t.sandbox(ctx, t.agentURL(v.agent), lifeOf(v.task), name)
	if err != nil {
		return fmt.Errorf("%s of task %s on %s: %w", name, v.ID, v.Node, err)
	}
	ended := make(chan struct{})
	if !follow || v.ended() {
		close(ended)
		if err := file.follow(ctx, w, ended); err != nil {
			return fmt.Errorf("%s of task %s on %s: %w", name, v.ID, v.Node, err)
		}
		return nil
	}
	watch, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.awaitEnd(watch, v)
		close(ended)
	}()
	err = file.follow(ctx, w, ended)
	stop()
	<-done
	if ctx.Err() != nil {
		return nil // an interrupt is how following ends
	}
	return err
}

// watchEvery is how often a followed task is asked for.
const watchEvery = time.Second

// awaitEnd returns when the task has ended, or nobody knows it any more.
func (t *target) awaitEnd(ctx context.Context, v taskView) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all, err := t.tasks(ctx)
		if err != nil {
			continue // between two leaders; the task goes on
		}
		at := slices.IndexFunc(all, func(o taskView) bool {
			return o.ID == v.ID && o.task.GetFrameworkId().GetValue() == v.task.GetFrameworkId().GetValue()
		})
		if at < 0 || all[at].ended() {
			return
		}
	}
}

func killCommand() *cobra.Command {
	var f targetFlags
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "kill TASK", Short: "End a task that `lith run` started",
		Long: `End a task that "lith run" started, here or elsewhere. TASK is its id or enough of its
beginning. Tasks of other frameworks are their frameworks' to end: the scheduler API gives
a framework one connection, and taking it would end that framework's own.`,
		Example: "  lith kill sleep-1a2b3c4d",
		Args:    oneTask, ValidArgsFunction: first(completeTasks(&f, true)),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.open()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			return t.kill(ctx, cmd.OutOrStdout(), args[0])
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long its end may take")
	return cmd
}

func (t *target) kill(ctx context.Context, w io.Writer, id string) error {
	v, err := t.findTask(ctx, id)
	if err != nil {
		return err
	}
	if v.ended() {
		return fmt.Errorf("task %s has ended already, as %s", v.ID, v.State)
	}
	if !strings.HasPrefix(v.owner.GetName(), runPrefix) {
		return fmt.Errorf("task %s belongs to framework %q (%s), which would lose its connection if lith took it: ask that framework to kill it",
			v.ID, v.Framework, v.task.GetFrameworkId().GetValue())
	}
	fmt.Fprintf(w, "killing task %s on %s\n", v.ID, v.Node)
	last, err := t.endAs(ctx, v)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "task %s ended as %s: %s\n", v.ID, last.GetState(), last.GetMessage())
	return nil
}

// errEnded stops the stream of a takeover when the task has ended.
var errEnded = errors.New("the task has ended")

// endAs takes over the framework of a `lith run`, kills its task and ends it. The other
// program sees that, waits for the end of the task and shows it.
func (t *target) endAs(ctx context.Context, v taskView) (*mesosv1.TaskStatus, error) {
	info := proto.Clone(v.owner).(*mesosv1.FrameworkInfo)
	info.Principal = nil // the connection says who calls
	c, err := client.New(client.Config{Masters: t.api, HTTP: t.http, Framework: info, Protobuf: true})
	if err != nil {
		return nil, err
	}
	var last *mesosv1.TaskStatus
	err = c.Run(ctx, func(ctx context.Context, e *scheduler.Event) error {
		switch e.GetType() {
		case scheduler.Event_SUBSCRIBED:
			if err := c.Suppress(ctx); err != nil {
				return err
			}
			return c.Kill(ctx, v.task.GetTaskId(), v.task.GetAgentId())
		case scheduler.Event_UPDATE:
			s := e.GetUpdate().GetStatus()
			if s.GetTaskId().GetValue() == v.ID && client.Terminal(s.GetState()) {
				if last == nil { // else the stream was lost since
					last = s
				}
				return errors.Join(errEnded, c.Acknowledge(ctx, s), c.Teardown(ctx))
			}
		}
		return nil
	})
	if last != nil {
		return last, nil
	}
	return nil, fmt.Errorf("kill task %s: %w", v.ID, err)
}
