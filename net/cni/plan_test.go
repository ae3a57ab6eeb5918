package cni

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
)

func TestAttachSteps(t *testing.T) {
	want := Record{ID: "c", Namespace: "/run/netns/c", Ports: []PortRange{{Begin: 31000, End: 31000}}}
	added, broken, other := want, want, want
	added.Added = true
	other.Ports = nil
	for name, c := range map[string]struct {
		have *Record
		want []Step
	}{
		"nothing":    {nil, []Step{StepRecord, StepAdd, StepLoopback, StepMap, StepForget}},
		"broken off": {&broken, []Step{StepDelete, StepRecord, StepAdd, StepLoopback, StepMap, StepForget}},
		"done":       {&added, []Step{StepLoopback, StepMap}},
		"otherwise":  {&other, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := AttachSteps(c.have, want)
			if (err != nil) != (c.want == nil) {
				t.Error(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDetachSteps(t *testing.T) {
	if steps := DetachSteps(nil); steps != nil {
		t.Errorf("nothing is recorded, and still: %v", steps)
	}
	if steps := DetachSteps(&Record{}); steps[0] != StepUnmap || steps[len(steps)-1] != StepUnrecord {
		t.Errorf("the record must go last, the rules first: %v", steps)
	}
}

func TestSettingsThatAreRefused(t *testing.T) {
	good := nodeSettings(1, 2)
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Settings){
		"no pool":           func(s *Settings) { s.Pool = netip.Prefix{} },
		"outside":           func(s *Settings) { s.Subnet = netip.MustParsePrefix("10.89.1.0/24") },
		"no room":           func(s *Settings) { s.Subnet = netip.MustParsePrefix("10.88.1.0/31") },
		"LAN in the pool":   func(s *Settings) { s.Address = netip.MustParseAddr("10.88.3.4") },
		"tiny MTU":          func(s *Settings) { s.MTU = 68 },
		"route outside":     func(s *Settings) { s.Routes[0].Subnet = netip.MustParsePrefix("0.0.0.0/0") },
		"route by nobody":   func(s *Settings) { s.Routes[0].Via = netip.Addr{} },
		"route by the pool": func(s *Settings) { s.Routes[0].Via = netip.MustParseAddr("10.88.2.1") },
	} {
		s := nodeSettings(1, 2)
		spoil(&s)
		if err := s.check(); !errors.Is(err, ErrSettings) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlanNode(t *testing.T) {
	s := nodeSettings(1, 2)
	stale := netip.MustParsePrefix("10.88.7.0/24")
	have := node{
		bridge: true, up: true, mtu: 1500, mac: "02:6d:0a:58:01:01",
		addresses: []netip.Prefix{netip.MustParsePrefix("10.88.7.1/24")},
		routes:    []Route{{Subnet: stale, Via: netip.MustParseAddr("10.7.0.17")}, {Subnet: pool}},
		sysctls:   map[string]string{"net/ipv4/ip_forward": "0"},
	}
	want := []string{
		"set MTU of mesos0 to 1400",
		"set sysctl net/ipv4/ip_forward to 1",
		"add address 10.88.1.1/24 on mesos0",
		"remove address 10.88.7.1/24 on mesos0",
		"remove route to 10.88.7.0/24 by 10.7.0.17",
		"set route to 10.88.2.0/24 by 10.7.0.12",
	}
	var got []string
	for _, d := range planNode(s, have) {
		got = append(got, d.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAPluginThatPrintsTooMuchOrNothingOrHangs(t *testing.T) {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"too much": "head -c 100000 /dev/zero",
		"wrong":    `echo '{"code": 7, "msg": "no addresses left"}'; exit 1`,
		"silent":   "echo help >&2; exit 3",
		"hanging":  "sleep 60 & wait", // with a child that keeps the pipe
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	for name, says := range map[string]string{"too much": "65536", "wrong": "no addresses left", "silent": "help"} {
		if _, err := (&plugins{}).ExecPlugin(context.Background(), filepath.Join(dir, name), nil, os.Environ()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (&plugins{}).ExecPlugin(short, filepath.Join(dir, "hanging"), nil, os.Environ()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hanging: %v", err)
	}
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"mesos0"},{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"interface":2,"address":"10.88.1.2/24","gateway":"10.88.1.1"}]}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","ips":[{"address":"10.88.1.1/24"}]}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","ips":[null],"interfaces":[null]}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","ips":[{"address":"::ffff:10.88.1.9/120"}]}`))
	s := nodeSettings(1, 2)
	f.Fuzz(func(t *testing.T, raw []byte) {
		res, err := types100.NewResult(raw)
		if err != nil {
			return
		}
		var r Record
		if err := r.result(res, s); err != nil {
			if !errors.Is(err, errResult) || r.Added {
				t.Fatalf("%v, %+v", err, r)
			}
			return
		}
		for _, a := range r.Addresses {
			if !s.Subnet.Contains(a) || a == r.Gateway {
				t.Fatalf("address %s in %s", a, s.Subnet)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	good, err := json.Marshal(Record{ID: "c", Added: true, Addresses: []netip.Addr{netip.MustParseAddr("10.88.1.2")}, Ports: []PortRange{{Begin: 1, End: 2}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"ID":"../x"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r Record
		if json.Unmarshal(raw, &r) == nil && checkID(r.ID) == nil {
			_, _ = AttachSteps(&r, Record{ID: r.ID})
			r.mappings(netip.Addr{})
		}
	})
}
