package inventory

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/mesolith/mesolith/internal/wire/noded"
)

func TestRead(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"proc/sys/kernel/osrelease":                "6.12.1-amd64\n",
		"proc/meminfo":                             "MemFree: 1 kB\nMemTotal:         262144 kB\n",
		"sys/devices/system/cpu/online":            "0-3,8\n",
		"sys/class/dmi/id/sys_vendor":              "QEMU\n",
		"sys/class/dmi/id/product_name":            "To Be Filled By O.E.M.\n",
		"sys/class/dmi/id/product_uuid":            "AB12-CD\n",
		"sys/class/dmi/id/product_serial":          "0000000000\n",
		"sys/block/vda/size":                       "2048\n",
		"sys/block/vda/serial":                     "D1\n",
		"sys/block/vda/queue/rotational":           "1\n",
		"sys/block/vda/device/vendor":              "0x1af4\n",
		"sys/block/loop0/size":                     "2048\n",
		"sys/block/sr0/size":                       "0\n",
		"sys/block/sr0/device/type":                "5\n",
		"sys/bus/pci/devices/0000:01:00.0/class":   "0x030200\n",
		"sys/bus/pci/devices/0000:01:00.0/vendor":  "0x10de\n",
		"sys/bus/pci/devices/0000:01:00.0/device":  "0x2330\n",
		"sys/bus/pci/devices/0000:03:00.0/class":   "0x120000\n",
		"sys/bus/pci/devices/0000:03:00.0/vendor":  "0x1002\n",
		"sys/bus/pci/devices/0000:03:00.0/device":  "0x74a1\n",
		"sys/bus/pci/devices/0000:02:00.0/class":   "0x020000\n",
		"sys/bus/pci/devices/0000:02:00.0/vendor":  "0x8086\n",
		"sys/bus/pci/drivers/nvidia/module/marker": "x",
	} {
		at := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../drivers/nvidia", filepath.Join(root, "sys/bus/pci/devices/0000:01:00.0/driver")); err != nil {
		t.Fatal(err)
	}
	want := &noded.Inventory{
		Kernel: "6.12.1-amd64", Vendor: "QEMU", Uuid: "ab12-cd", Cpus: 5, MemoryBytes: 256 << 20,
		Disks: []*noded.Disk{{Name: "vda", Serial: "D1", Bytes: 1 << 20, Rotational: true}},
		Gpus:  []*noded.Gpu{{Pci: "0000:01:00.0", VendorId: "10de", DeviceId: "2330", Vendor: "NVIDIA", Driver: "nvidia"}, {Pci: "0000:03:00.0", VendorId: "1002", DeviceId: "74a1", Vendor: "AMD"}},
	}
	if d := cmp.Diff(want, Read(root, nil), protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

func TestCountList(t *testing.T) {
	for list, want := range map[string]uint32{"0": 1, "0-1": 2, "0-3,8,10-11": 7, "": 0, "x,3-1": 0, "0-99999999": 0} {
		if got := countList(list); got != want {
			t.Errorf("%q: %d, want %d", list, got, want)
		}
	}
}
