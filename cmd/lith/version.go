package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/mesolith/mesolith/image"
)

// versionView is what `lith version --json` prints.
type versionView struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Say which lith this is", Example: "  lith version",
		Args: noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionView{Version: image.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				if made := info.Main.Version; made != "" && made != "(devel)" {
					v.Version = made // by `go install …@version`
				}
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Revision = s.Value
					}
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			text := "lith " + v.Version
			if v.Revision != "" {
				text += " " + v.Revision
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s (%s, %s)\n", text, v.Go, v.Platform)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
