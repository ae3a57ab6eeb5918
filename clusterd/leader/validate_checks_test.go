package leader

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// Both kinds of checks have the same rules, in Mesos' words.
func TestInvalidChecks(t *testing.T) {
	command := func(change func(*mesosv1.CommandInfo)) *mesosv1.CommandInfo {
		c := &mesosv1.CommandInfo{Value: proto.String("true")}
		if change != nil {
			change(c)
		}
		return c
	}
	type one struct {
		name    string
		of      string // COMMAND, HTTP, TCP; empty: none is named
		command *mesosv1.CommandInfo
		port    *uint32 // of HTTP and TCP alike
		path    *string
		times   map[string]float64
		want    string // part of the error; empty: it is good. KIND stands for the kind
	}
	variable := func(name string, more func(*mesosv1.Environment_Variable)) func(*mesosv1.CommandInfo) {
		return func(c *mesosv1.CommandInfo) {
			v := &mesosv1.Environment_Variable{Name: &name, Value: proto.String("v")}
			if more != nil {
				more(v)
			}
			c.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{v}}
		}
	}
	for _, c := range []one{
		{name: "a command", of: "COMMAND", command: command(nil)},
		{name: "a command, inferred", command: command(nil)},
		{name: "a page", of: "HTTP", port: proto.Uint32(80), path: proto.String("/health?deep=1")},
		{name: "a page without a path", of: "HTTP", port: proto.Uint32(65535)},
		{name: "a port", of: "TCP", port: proto.Uint32(1)},
		{name: "no time at all", of: "TCP", port: proto.Uint32(1), times: map[string]float64{"delay_seconds": 0, "interval_seconds": 0, "timeout_seconds": 0}},
		{name: "nothing", want: "must specify 'type'"},
		{name: "unknown", of: "UNKNOWN", command: command(nil), want: "'UNKNOWN' is not a valid KIND type"},
		{name: "a command that is not there", of: "COMMAND", port: proto.Uint32(1), want: "expecting 'command' to be set for COMMAND KIND"},
		{name: "a page that is not there", of: "HTTP", command: command(nil), want: "expecting 'http' to be set for HTTP KIND"},
		{name: "a port that is not there", of: "TCP", command: command(nil), want: "expecting 'tcp' to be set for TCP KIND"},
		{name: "a shell line of nothing", of: "COMMAND", command: command(func(c *mesosv1.CommandInfo) { c.Value = nil }), want: "command KIND must contain 'shell command'"},
		{name: "a program of nothing", of: "COMMAND", command: command(func(c *mesosv1.CommandInfo) { c.Value, c.Shell = nil, proto.Bool(false) }), want: "command KIND must contain 'executable path'"},
		{name: "a secret", of: "COMMAND", command: command(variable("S", func(v *mesosv1.Environment_Variable) { v.Type = mesosv1.Environment_Variable_SECRET.Enum() })), want: `"S" of its command is a secret`},
		{name: "a variable without a name", of: "COMMAND", command: command(variable("", nil)), want: "has no name"},
		{name: "a variable with =", of: "COMMAND", command: command(variable("a=b", nil)), want: "with '='"},
		{name: "NUL", of: "COMMAND", command: command(func(c *mesosv1.CommandInfo) { c.Value = proto.String("a\x00b") }), want: "NUL"},
		{name: "port 0 of a page", of: "HTTP", port: proto.Uint32(0), want: "'port' 0 is not of 1 to 65535"},
		{name: "port 65536 of a page", of: "HTTP", port: proto.Uint32(65536), want: "'port' 65536"},
		{name: "port 0", of: "TCP", port: proto.Uint32(0), want: "'port' 0"},
		{name: "port 65536", of: "TCP", port: proto.Uint32(65536), want: "'port' 65536"},
		{name: "a path without its slash", of: "HTTP", port: proto.Uint32(80), path: proto.String("health"), want: "the path 'health' of HTTP KIND must start with '/'"},
		{name: "an empty path", of: "HTTP", port: proto.Uint32(80), path: proto.String(""), want: "must start with '/'"},
		{name: "a path that is none", of: "HTTP", port: proto.Uint32(80), path: proto.String("/a\nHost: b"), want: "cannot be asked for"},
		{name: "negative delay", of: "TCP", port: proto.Uint32(1), times: map[string]float64{"delay_seconds": -1}, want: "expecting 'delay_seconds' to be non-negative"},
		{name: "negative interval", of: "TCP", port: proto.Uint32(1), times: map[string]float64{"interval_seconds": -0.1}, want: "expecting 'interval_seconds' to be non-negative"},
		{name: "negative timeout", of: "TCP", port: proto.Uint32(1), times: map[string]float64{"timeout_seconds": math.Inf(-1)}, want: "expecting 'timeout_seconds' to be non-negative"},
		{name: "NaN", of: "TCP", port: proto.Uint32(1), times: map[string]float64{"timeout_seconds": math.NaN()}, want: "expecting 'timeout_seconds' to be non-negative"},
		{name: "for ever", of: "TCP", port: proto.Uint32(1), times: map[string]float64{"interval_seconds": math.Inf(1)}, want: "'interval_seconds' is longer than 292 years"},
	} {
		health, check := &mesosv1.HealthCheck{Command: c.command}, &mesosv1.CheckInfo{}
		if c.command != nil {
			check.Command = &mesosv1.CheckInfo_Command{Command: c.command}
		}
		if n, ok := mesosv1.HealthCheck_Type_value[c.of]; ok {
			health.Type, check.Type = mesosv1.HealthCheck_Type(n).Enum(), mesosv1.CheckInfo_Type(n).Enum()
		}
		if c.of == "HTTP" && c.port != nil {
			health.Http, check.Http = &mesosv1.HealthCheck_HTTPCheckInfo{Port: c.port, Path: c.path}, &mesosv1.CheckInfo_Http{Port: c.port, Path: c.path}
		} else if c.port != nil {
			health.Tcp, check.Tcp = &mesosv1.HealthCheck_TCPCheckInfo{Port: c.port}, &mesosv1.CheckInfo_Tcp{Port: c.port}
		}
		for name, v := range c.times {
			for _, m := range []proto.Message{health, check} {
				f := m.ProtoReflect().Descriptor().Fields().ByTextName(name)
				m.ProtoReflect().Set(f, protoreflect.ValueOfFloat64(v))
			}
		}
		for kind, task := range map[string]*mesosv1.TaskInfo{"health check": {HealthCheck: health}, "check": {Check: check}} {
			err := checkChecks(task)
			want := strings.ReplaceAll(c.want, "KIND", kind)
			if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
				t.Errorf("%s, %s: %v, want %q", kind, c.name, err, want)
			}
		}
	}
	for name, h := range map[string]*mesosv1.HealthCheck{
		"unsupported HTTP health check scheme: 'ftp'":         {Http: &mesosv1.HealthCheck_HTTPCheckInfo{Port: proto.Uint32(21), Scheme: proto.String("ftp")}},
		"expecting 'grace_period_seconds' to be non-negative": {Command: command(nil), GracePeriodSeconds: proto.Float64(-1)},
		"must specify 'type', or have one of":                 {Command: command(nil), Tcp: &mesosv1.HealthCheck_TCPCheckInfo{Port: proto.Uint32(1)}},
	} {
		if err := checkChecks(&mesosv1.TaskInfo{HealthCheck: h}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
}
