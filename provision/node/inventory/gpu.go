package inventory

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/mesolith/mesolith/internal/wire/noded"
)

// gpuVendors names the makers of display and compute devices by their PCI vendor id.
var gpuVendors = map[string]string{
	"1002": "AMD", "1022": "AMD", "10de": "NVIDIA", "8086": "Intel",
	"102b": "Matrox", "1a03": "ASPEED", "1234": "QEMU", "1b36": "Red Hat", "1af4": "virtio", "15ad": "VMware", "1013": "Cirrus Logic",
	"1d94": "Hygon", "1ed5": "Moore Threads", "1da3": "Habana Labs",
}

// gpus lists PCI devices of the classes 0x03 (display, and the compute cards among them)
// and 0x12 (processing accelerators, as some compute cards call themselves).
func gpus(root string) []*noded.Gpu {
	const dir = "sys/bus/pci/devices"
	var out []*noded.Gpu
	for _, pci := range names(filepath.Join(root, dir)) {
		at := filepath.Join(dir, pci)
		class := text(root, at+"/class")
		if !strings.HasPrefix(class, "0x03") && !strings.HasPrefix(class, "0x12") {
			continue
		}
		vendor := strings.TrimPrefix(text(root, at+"/vendor"), "0x")
		g := &noded.Gpu{
			Pci: pci, VendorId: vendor, DeviceId: strings.TrimPrefix(text(root, at+"/device"), "0x"),
			Vendor: gpuVendors[vendor], Model: text(root, at+"/product_name"),
		}
		if driver, err := os.Readlink(filepath.Join(root, at, "driver")); err == nil {
			g.Driver = filepath.Base(driver)
		}
		out = append(out, g)
	}
	return out
}
