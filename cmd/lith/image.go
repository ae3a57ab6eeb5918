package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mesolith/mesolith/image"
	"github.com/spf13/cobra"
)

// sizeGoalBytes is what kernel and initramfs together should stay below.
const sizeGoalBytes = 32_000_000

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Build the operating system image"}
	cmd.AddCommand(imageBuildCommand(), imageSizeCommand())
	return cmd
}

// sizeView is what `lith image size --json` prints.
type sizeView struct {
	Files      map[string]int `json:"files"`
	TotalBytes int            `json:"total_bytes"`
	GoalBytes  int            `json:"goal_bytes"`
}

func imageSizeCommand() *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "size",
		Short:   "Check a built image against its manifest and say how large it is",
		Example: "  lith image size\n  lith image size -o DIR --json",
		Args:    noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := image.ReadManifest(dir)
			if err != nil {
				return err
			}
			v := sizeView{Files: map[string]int{}, GoalBytes: sizeGoalBytes}
			for _, name := range []string{"vmlinuz", "initramfs.zst"} {
				bytes, err := m.Size(name)
				if err != nil {
					return err
				}
				v.Files[name] = bytes
				v.TotalBytes += bytes
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, v)
			}
			for _, name := range sortedKeys(v.Files) {
				fmt.Fprintf(w, "%-22s %12d bytes\n", name, v.Files[name])
			}
			fmt.Fprintln(w, sizeLine(v.TotalBytes))
			return nil
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", filepath.Join("build", "image"), "directory of the image")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	completeFiles(cmd, []string{"output"}, nil)
	return cmd
}

// sizeLine is figure 2 of the bench table.
func sizeLine(total int) string {
	verdict := "within"
	if total > sizeGoalBytes {
		verdict = "above"
	}
	return fmt.Sprintf("kernel + initramfs     %12d bytes = %.1f MB, %s the goal of %.0f MB", total, float64(total)/1e6, verdict, sizeGoalBytes/1e6)
}

func imageBuildCommand() *cobra.Command {
	var o image.Options
	cmd := &cobra.Command{
		Use:     "build -o DIR",
		Short:   "Build kernel and initramfs from this checkout",
		Example: "  lith image build\n  lith image build -o DIR --release\n  lith image build -o DIR --kernel bzImage --modules /lib/modules/6.12.1",
		Long: `Builds vmlinuz, initramfs.zst, manifest.json and SBOM.spdx.json into DIR, from
the checkout that the current directory lies in. It needs Go, gcc and the host's
apt, but no root, and installs nothing. The same checkout and tool chain give the
same bytes. What QEMU boots besides is left in build/qemu.`,
		Args: noArgs, ValidArgsFunction: nothingToComplete,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checkout, err := findCheckout()
			if err != nil {
				return err
			}
			o.Checkout = checkout
			if o.Out == "" {
				o.Out = filepath.Join(checkout, "build", "image")
			}
			o.Tell = func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "image: "+format+"\n", args...) }
			result, err := image.Build(cmd.Context(), o)
			if err != nil {
				return err
			}
			printImage(cmd.OutOrStdout(), o.Out, result)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Out, "output", "o", "", "directory for the image's four files (default build/image of the checkout)")
	f.StringVar(&o.Kernel, "kernel", "", "another kernel, a bzImage; together with --modules")
	f.StringVar(&o.Modules, "modules", "", "the modules of that kernel: what lies below /lib/modules/VERSION")
	f.StringVar(&o.Anchor, "anchor", "", "put this cluster's anchor.json into the image")
	f.BoolVar(&o.Release, "release", false, "refuse what the lock file does not name: packages, tool chain, uncommitted changes")
	f.StringSliceVar(&o.Without, "without", nil, "leave out a program, for trying out a part of an image")
	completeFiles(cmd, []string{"output", "modules"}, map[string]string{"anchor": "json"})
	if err := f.MarkHidden("without"); err != nil {
		panic(err) // the line above declared the flag
	}
	return cmd
}

// findCheckout walks up from the current directory to the module's go.mod.
func findCheckout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(raw), "module github.com/mesolith/mesolith\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New(start + " does not lie in a checkout of Mesolith: an image is built from sources; elsewhere give lith up a built one by --image DIR")
		}
	}
}

func printImage(w io.Writer, dir string, r image.Result) {
	fmt.Fprintf(w, "%-22s %12s %12s\n", "part", "bytes", "compressed")
	for _, p := range r.Parts {
		fmt.Fprintf(w, "%-22s %12d %12d\n", p.Name, p.Bytes, p.Packed)
	}
	fmt.Fprintln(w, sizeLine(r.Parts[len(r.Parts)-1].Packed))
	fmt.Fprintf(w, "kernel %s, %d modules; built in %.0f s into %s\n", r.Manifest.Kernel.Version, r.Manifest.Kernel.Modules, r.Took.Seconds(), dir)
}
