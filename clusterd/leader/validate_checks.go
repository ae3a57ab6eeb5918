package leader

import (
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/task"
)

// checkChecks is what a task's checks may get wrong; the sentences are Mesos' where it
// has one.
func checkChecks(t *mesosv1.TaskInfo) error {
	if c := t.GetHealthCheck(); c != nil {
		if err := checkHealthCheck(c); err != nil {
			return fmt.Errorf("task uses invalid health check: %w", err)
		}
	}
	if c := t.GetCheck(); c != nil {
		if err := checkCheck(c); err != nil {
			return fmt.Errorf("task uses invalid check: %w", err)
		}
	}
	return nil
}

// timed is a field of seconds.
type timed struct {
	name  string
	value *float64
}

func checkTimes(times ...timed) error {
	for _, f := range times {
		switch {
		case f.value == nil:
		case !(*f.value >= 0):
			return fmt.Errorf("expecting '%s' to be non-negative", f.name)
		case *f.value > math.MaxInt64/float64(time.Second):
			return fmt.Errorf("'%s' is longer than 292 years", f.name)
		}
	}
	return nil
}

func checkHealthCheck(c *mesosv1.HealthCheck) error {
	var err error
	switch of := task.HealthCheckTypeOf(c); {
	case c.Type == nil && of == mesosv1.CheckInfo_UNKNOWN:
		return fmt.Errorf("HealthCheck must specify 'type', or have one of 'command', 'http' and 'tcp'")
	case of == mesosv1.CheckInfo_COMMAND && c.Command == nil:
		return fmt.Errorf("expecting 'command' to be set for COMMAND health check")
	case of == mesosv1.CheckInfo_COMMAND:
		err = checkCommandOf(c.GetCommand(), "health check")
	case of == mesosv1.CheckInfo_HTTP && c.Http == nil:
		return fmt.Errorf("expecting 'http' to be set for HTTP health check")
	case of == mesosv1.CheckInfo_HTTP:
		if s := c.GetHttp().Scheme; s != nil && *s != "http" && *s != "https" {
			return fmt.Errorf("unsupported HTTP health check scheme: '%s'; write http or https", *s)
		}
		err = checkPage(c.GetHttp().GetPort(), c.GetHttp().Path, "health check")
	case of == mesosv1.CheckInfo_TCP && c.Tcp == nil:
		return fmt.Errorf("expecting 'tcp' to be set for TCP health check")
	case of == mesosv1.CheckInfo_TCP:
		err = checkPort(c.GetTcp().GetPort())
	default:
		return fmt.Errorf("'%s' is not a valid health check type", of)
	}
	if err != nil {
		return err
	}
	return checkTimes(timed{"delay_seconds", c.DelaySeconds}, timed{"grace_period_seconds", c.GracePeriodSeconds},
		timed{"interval_seconds", c.IntervalSeconds}, timed{"timeout_seconds", c.TimeoutSeconds})
}

func checkCheck(c *mesosv1.CheckInfo) error {
	var err error
	switch of := task.CheckTypeOf(c); {
	case c.Type == nil && of == mesosv1.CheckInfo_UNKNOWN:
		return fmt.Errorf("CheckInfo must specify 'type', or have one of 'command', 'http' and 'tcp'")
	case of == mesosv1.CheckInfo_COMMAND && c.Command == nil:
		return fmt.Errorf("expecting 'command' to be set for COMMAND check")
	case of == mesosv1.CheckInfo_COMMAND:
		err = checkCommandOf(c.GetCommand().GetCommand(), "check")
	case of == mesosv1.CheckInfo_HTTP && c.Http == nil:
		return fmt.Errorf("expecting 'http' to be set for HTTP check")
	case of == mesosv1.CheckInfo_HTTP:
		err = checkPage(c.GetHttp().GetPort(), c.GetHttp().Path, "check")
	case of == mesosv1.CheckInfo_TCP && c.Tcp == nil:
		return fmt.Errorf("expecting 'tcp' to be set for TCP check")
	case of == mesosv1.CheckInfo_TCP:
		err = checkPort(c.GetTcp().GetPort())
	default:
		return fmt.Errorf("'%s' is not a valid check type", of)
	}
	if err != nil {
		return err
	}
	return checkTimes(timed{"delay_seconds", c.DelaySeconds}, timed{"interval_seconds", c.IntervalSeconds}, timed{"timeout_seconds", c.TimeoutSeconds})
}

func checkCommandOf(c *mesosv1.CommandInfo, kind string) error {
	if c.GetValue() == "" {
		what := "'executable path'"
		if c.GetShell() {
			what = "'shell command'"
		}
		return fmt.Errorf("command %s must contain %s", kind, what)
	}
	for _, v := range c.GetEnvironment().GetVariables() {
		switch {
		case v.GetType() == mesosv1.Environment_Variable_SECRET:
			return fmt.Errorf("environment variable %q of its command is a secret, which is not supported yet", v.GetName())
		case v.GetName() == "" || strings.ContainsAny(v.GetName(), "=\x00") || strings.Contains(v.GetValue(), "\x00"):
			return fmt.Errorf("environment variable %q of its command has no name, or one with '=', or a NUL byte", v.GetName())
		}
	}
	if strings.Contains(c.GetValue(), "\x00") || strings.Contains(strings.Join(c.GetArguments(), ""), "\x00") {
		return fmt.Errorf("its command contains a NUL byte")
	}
	return nil
}

func checkPort(port uint32) error {
	if port == 0 || port > math.MaxUint16 {
		return fmt.Errorf("'port' %d is not of 1 to 65535", port)
	}
	return nil
}

func checkPage(port uint32, path *string, kind string) error {
	if err := checkPort(port); err != nil || path == nil {
		return err
	}
	if !strings.HasPrefix(*path, "/") {
		return fmt.Errorf("the path '%s' of HTTP %s must start with '/'", *path, kind)
	}
	if _, err := url.Parse("http://127.0.0.1" + *path); err != nil {
		return fmt.Errorf("the path %q of HTTP %s cannot be asked for: %w", *path, kind, err)
	}
	return nil
}
