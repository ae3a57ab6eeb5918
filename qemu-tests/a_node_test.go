//go:build vm

package qemutests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/image"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// A node's own side answers for the machine: what it is, what it is made of, what its
// kernel and programs say. Its kernel is hardened as the image says, every phase of the
// boot went well, the watchdog is fed, and no module can be loaded any more. Asked to
// reboot it ends its programs in order and comes back as another boot.
func TestNodeAnswersForItself(t *testing.T) {
	w := three(t)
	leader, err := w.WaitLeader(within(t, toNotice))
	if err != nil {
		t.Fatal(err)
	}
	machines := w.Machines()
	m := machines[slices.IndexFunc(machines, func(m *cluster.Machine) bool { return m.Node.Name != leader.Name })]
	api := w.nodeAPI(m.Node)

	health, err := api.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if health.Name != m.Node.Name || health.Source != "fw_cfg" || !slices.Contains(health.Addresses, m.Node.Address.String()+"/24") || time.Until(health.CertificateEnds) < time.Hour {
		t.Errorf("health %+v", health)
	}
	stock, err := api.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stock.CPUs != 1 || stock.MemoryBytes < 256<<20 || stock.Kernel != health.Kernel || stock.UUID != m.Node.UUID ||
		!slices.ContainsFunc(stock.NICs, func(n node.NIC) bool {
			return n.MAC == m.Node.MAC.String() && n.Driver == "virtio_net" && n.Carrier && slices.Contains(n.Addresses, m.Node.Address.String()+"/24")
		}) {
		t.Errorf("inventory %+v", stock)
	}
	services, err := api.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"noded", "isolated", "clusterd"} {
		if !slices.ContainsFunc(services, func(s node.Service) bool { return s.Name == program && s.State == "running" }) {
			t.Errorf("%s does not run: %+v", program, services)
		}
		if log := whole(t, func() (io.ReadCloser, error) { return api.Logs(t.Context(), program, false) }); !strings.HasPrefix(log, "{") {
			t.Errorf("log of %s begins with %.80q", program, log)
		}
	}
	if _, err := api.Logs(t.Context(), "nobody", false); !errors.Is(err, node.ErrRefused) || !strings.Contains(err.Error(), "there are clusterd, isolated, noded") {
		t.Errorf("a log of nobody: %v", err)
	}
	bootWentWell(t, whole(t, func() (io.ReadCloser, error) { return api.Dmesg(t.Context()) }))
	if n := m.VM().Events("WATCHDOG"); n > 0 {
		t.Errorf("the watchdog bit %d times", n)
	}

	nodedComesBack(t, api, health)

	mark := m.VM().Console.Len()
	if err := api.Reboot(t.Context(), "the test wants it"); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"going down: the test wants it", "phase stop-clusterd", "phase stop-tasks", "phase stop-isolated", "phase stop-noded",
		"phase kill", "phase unmount", "reboot", "up ",
	} {
		if _, err := m.VM().Console.Wait(within(t, toRun), mark, "mesolith: "+line); err != nil {
			t.Fatalf("the console does not say %q: %v", line, err)
		}
	}
	eventually(t, within(t, toElect), func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		again, err := api.Health(ctx)
		if err != nil {
			return err
		}
		if again.BootID == health.BootID {
			return errors.New("it is still the same boot")
		}
		if again.Incarnation == health.Incarnation {
			t.Fatal("a machine that forgot everything calls itself the same incarnation")
		}
		return nil
	})
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
}

// nodedComesBack kills the machine's own side: the address stays, and so does who it is.
func nodedComesBack(t *testing.T, api *node.Client, before node.Health) {
	t.Helper()
	_ = api.Kill(t.Context(), "noded", "KILL") // whoever dies may not answer any more
	eventually(t, within(t, toRun), func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		services, err := api.Services(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(services, func(s node.Service) bool { return s.Name == "noded" && s.Restarts > 0 }) {
			return fmt.Errorf("noded was not started again: %+v", services)
		}
		after, err := api.Health(ctx)
		if err != nil {
			return err
		}
		if after.BootID != before.BootID || after.Incarnation != before.Incarnation || !after.CertificateEnds.Equal(before.CertificateEnds) || !slices.Equal(after.Addresses, before.Addresses) {
			return fmt.Errorf("noded came back as %+v, before %+v", after, before)
		}
		return nil
	})
}

// bootWentWell looks through the kernel's log of one boot.
func bootWentWell(t *testing.T, log string) {
	t.Helper()
	_, line, _ := strings.Cut(log, "Command line: ")
	line, _, _ = strings.Cut(line, "\n")
	have := strings.Fields(line)
	for _, word := range strings.Fields(image.CommandLine) {
		if !slices.Contains(have, word) {
			t.Errorf("the kernel was not started with %s", word)
		}
	}
	for _, phase := range []string{"mounts", "settings", "root", "watchdog", "image", "groups", "state", "sockets", "cards", "programs", "modules", "boots", "drivers", "plan"} {
		_, line, found := strings.Cut(log, "mesolith: phase "+phase+" ")
		line, _, _ = strings.Cut(line, "\n")
		if !found || !strings.HasSuffix(line, " ok") {
			t.Errorf("phase %s: %q", phase, line)
		}
	}
	for _, line := range []string{"mesolith: no module can be loaded any more", "Kernel is locked down from command line"} {
		if !strings.Contains(log, line) {
			t.Errorf("the kernel's log does not say %q", line)
		}
	}
	if t.Failed() {
		fmt.Println(log)
	}
}

// whole reads an answer to its end.
func whole(t *testing.T, ask func() (io.ReadCloser, error)) string {
	t.Helper()
	body, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
