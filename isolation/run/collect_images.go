package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/isolation/records"
	"github.com/mesolith/mesolith/isolation/tree"
)

// collectImages removes kept files of tasks, and then images that no container is made of,
// longest not pulled first, for as long as more says so; then the layers that no image names.
func (k *Keeper) collectImages(more func() bool) error {
	if !k.pulls.pause.TryLock() {
		return nil // a pull under way counts on the layers that it found: the next time will do
	}
	defer k.pulls.pause.Unlock()
	if err := k.clearStaging(); err != nil {
		return err
	}
	if err := k.collectURIs(func(uint64) bool { return more() }); err != nil {
		return err
	}
	inUse := k.layersInUse()
	images, err := k.storedImages()
	if err != nil {
		return err
	}
	sort.Slice(images, func(i, j int) bool { return images[i].PulledAt < images[j].PulledAt })
	var kept []imagestore.Image // passed over, because a container is made of them
	for i, img := range images {
		if !more() {
			return nil
		}
		if anyIn(img.Layers, inUse) {
			kept = append(kept, img)
			continue
		}
		if err := os.Remove(k.images.ImageFile(img.Reference)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove image: %w", err)
		}
		k.log.Info("image is removed, the store is nearly full", "image", img.Reference)
		keep := map[string]bool{}
		for _, other := range slices.Concat(kept, images[i+1:]) {
			for _, l := range other.Layers {
				keep[l] = true
			}
		}
		for _, l := range img.Layers {
			if keep[l] || inUse[l] {
				continue
			}
			if err := tree.Remove(k.images.Layer(l)); err != nil {
				return fmt.Errorf("remove layer: %w", err)
			}
		}
	}
	return nil
}

// clearStaging removes what pullers left that were killed. The caller sees to it that
// none is at work.
func (k *Keeper) clearStaging() error {
	names, err := os.ReadDir(k.images.Staging())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for unfinished pulls: %w", err)
	}
	for _, n := range names {
		k.log.Info("what a pull left unfinished is removed", "name", n.Name())
		if err := tree.Remove(filepath.Join(k.images.Staging(), n.Name())); err != nil {
			return err
		}
	}
	return nil
}

func anyIn(layers []string, set map[string]bool) bool {
	for _, l := range layers {
		if set[l] {
			return true
		}
	}
	return false
}

func (k *Keeper) layersInUse() map[string]bool {
	out := map[string]bool{}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.containers {
		c.mu.Lock()
		if c.rec.Step != records.Done {
			for _, l := range c.rec.Layers {
				out[l] = true
			}
		}
		c.mu.Unlock()
	}
	return out
}

func (k *Keeper) storedImages() ([]imagestore.Image, error) {
	files, err := filepath.Glob(filepath.Join(k.images.Images(), "*.json"))
	if err != nil {
		return nil, err
	}
	var out []imagestore.Image
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("look at images: %w", err)
		}
		img, err := imagestore.Decode(f)
		f.Close()
		if err != nil {
			k.log.Warn("image file is removed", "file", name, "error", err)
			if err := os.Remove(name); err != nil {
				return nil, fmt.Errorf("remove image file: %w", err)
			}
			continue
		}
		out = append(out, img)
	}
	return out, nil
}
