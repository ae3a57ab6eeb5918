package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

// anchorArgument is the word of the kernel's command line that holds an anchor.
const anchorArgument = "mesolith.anchor"

// FindAnchor looks for the anchor where a node may have one without any medium: in the
// image, on fw_cfg, on the kernel's command line. It is fs.ErrNotExist when there is none.
func FindAnchor(cfg Config) (nodedoc.Anchor, string, error) {
	return findAnchor(cfg, medium{})
}

// findAnchor takes the first anchor there is; a broken one is an error, because going on
// to the next would let whoever can break one choose the cluster. The image's goes
// before all others: it was built for this cluster.
func findAnchor(cfg Config, m medium) (nodedoc.Anchor, string, error) {
	inImage := "/etc/mesolith/" + anchorFile
	raw, err := readFile(filepath.Join(cfg.Root, inImage), nodedoc.MaxAnchor)
	if err == nil {
		return parseAnchor(raw, inImage)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nodedoc.Anchor{}, "", err
	}
	media, _ := openFirmware(context.Background(), cfg)
	if m.read != nil {
		media = append(media, m)
	}
	for _, place := range media {
		raw, err := place.read(anchorFile, nodedoc.MaxAnchor)
		if err == nil {
			return parseAnchor(raw, place.name)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nodedoc.Anchor{}, "", fmt.Errorf("%s on %s: %w", anchorFile, place.name, err)
		}
	}
	if text, ok := Argument(cfg.CommandLine, anchorArgument); ok {
		a, err := nodedoc.ParseInlineAnchor(text)
		if err != nil {
			return nodedoc.Anchor{}, "", fmt.Errorf("%s on the kernel's command line: %w", anchorArgument, err)
		}
		return a, "the kernel's command line", nil
	}
	return nodedoc.Anchor{}, "", fmt.Errorf("no anchor (in the image, on fw_cfg, as %s= on the kernel's command line), so no document can be believed: %w", anchorArgument, fs.ErrNotExist)
}

func parseAnchor(raw []byte, from string) (nodedoc.Anchor, string, error) {
	a, err := nodedoc.ParseAnchor(raw)
	if err != nil {
		return nodedoc.Anchor{}, "", fmt.Errorf("anchor from %s: %w", from, err)
	}
	return a, from, nil
}
