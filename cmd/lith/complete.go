package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completionTime bounds what a press of the tabulator may take.
const completionTime = 2 * time.Second

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeTasks offers the ids of tasks; with running, of those that have not ended.
func completeTasks(f *targetFlags, running bool) completer {
	return complete(f, func(ctx context.Context, t *target) ([]string, error) {
		all, err := t.tasks(ctx)
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, v := range all {
			if !running || !v.ended() {
				ids = append(ids, v.ID+"\t"+v.State+" on "+v.Node)
			}
		}
		return ids, nil
	})
}

// completeNodes offers the names of nodes. It asks nobody where the directory knows them.
func completeNodes(f *targetFlags) completer {
	return complete(f, func(ctx context.Context, t *target) ([]string, error) {
		var names []string
		for _, n := range t.nodes {
			names = append(names, n.Name)
		}
		if len(names) > 0 {
			return names, nil
		}
		s, err := t.status(ctx, time.Now())
		for _, n := range s.Nodes {
			names = append(names, n.Name)
		}
		return names, err
	})
}

// first offers words for a command's first argument only.
func first(c completer) completer {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c(cmd, args, begun)
	}
}

// words offers a fixed choice for a flag.
func words(list ...string) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFiles marks flags that name directories, or files by their ending.
func completeFiles(cmd *cobra.Command, dirs []string, files map[string]string) {
	for _, name := range dirs {
		cobra.CheckErr(cmd.MarkFlagDirname(name))
	}
	for name, ending := range files {
		cobra.CheckErr(cmd.MarkFlagFilename(name, ending))
	}
}

func complete(f *targetFlags, list func(context.Context, *target) ([]string, error)) completer {
	return func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		t, err := f.open()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		words, err := list(ctx, t)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, w := range words {
			if strings.HasPrefix(w, begun) {
				out = append(out, w)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
