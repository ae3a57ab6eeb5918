package calls

import (
	"fmt"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// uuidBytes is the length of the uuid of a status update.
const uuidBytes = 16

// known are the calls of the scheduler API: the sub-message each must have, and what else
// is checked before the leader sees it.
var known = map[scheduler.Call_Type]struct {
	message string
	present func(*scheduler.Call) bool
	check   func(*scheduler.Call) error
}{
	scheduler.Call_SUBSCRIBE:        {"subscribe", func(c *scheduler.Call) bool { return c.Subscribe != nil }, nil},
	scheduler.Call_TEARDOWN:         {},
	scheduler.Call_ACCEPT:           {"accept", func(c *scheduler.Call) bool { return c.Accept != nil }, nil},
	scheduler.Call_DECLINE:          {"decline", func(c *scheduler.Call) bool { return c.Decline != nil }, nil},
	scheduler.Call_REVIVE:           {},
	scheduler.Call_SUPPRESS:         {},
	scheduler.Call_KILL:             {"kill", func(c *scheduler.Call) bool { return c.Kill != nil }, nil},
	scheduler.Call_ACKNOWLEDGE:      {"acknowledge", func(c *scheduler.Call) bool { return c.Acknowledge != nil }, checkAcknowledge},
	scheduler.Call_RECONCILE:        {"reconcile", func(c *scheduler.Call) bool { return c.Reconcile != nil }, nil},
	scheduler.Call_MESSAGE:          {"message", func(c *scheduler.Call) bool { return c.Message != nil }, nil},
	scheduler.Call_REQUEST:          {"request", func(c *scheduler.Call) bool { return c.Request != nil }, nil},
	scheduler.Call_SHUTDOWN:         {"shutdown", func(c *scheduler.Call) bool { return c.Shutdown != nil }, nil},
	scheduler.Call_UPDATE_FRAMEWORK: {"update_framework", func(c *scheduler.Call) bool { return c.UpdateFramework != nil }, checkUpdate},
	scheduler.Call_ACCEPT_INVERSE_OFFERS: {
		"accept_inverse_offers", func(c *scheduler.Call) bool { return c.AcceptInverseOffers != nil }, nil,
	},
	scheduler.Call_DECLINE_INVERSE_OFFERS: {
		"decline_inverse_offers", func(c *scheduler.Call) bool { return c.DeclineInverseOffers != nil }, nil,
	},
	scheduler.Call_ACKNOWLEDGE_OPERATION_STATUS: {
		"acknowledge_operation_status", func(c *scheduler.Call) bool { return c.AcknowledgeOperationStatus != nil }, checkAcknowledgeOperation,
	},
	scheduler.Call_RECONCILE_OPERATIONS: {
		"reconcile_operations", func(c *scheduler.Call) bool { return c.ReconcileOperations != nil }, nil,
	},
}

// invalid is a sentence in Mesos' words.
type invalid string

func (e invalid) Error() string { return string(e) }

func invalidf(format string, args ...any) error { return invalid(fmt.Sprintf(format, args...)) }

func supported(t scheduler.Call_Type) bool {
	_, ok := known[t]
	return ok
}

// validate checks a call for what can be said without knowing the framework. principal is
// the caller's; empty: anonymous, who may bear any name.
func validate(c *scheduler.Call, principal string) error {
	if c.Type == nil {
		return invalid("Expecting 'type' to be present")
	}
	k := known[c.GetType()]
	if k.present != nil && !k.present(c) {
		return invalidf("Expecting '%s' to be present", k.message)
	}
	if c.GetType() == scheduler.Call_SUBSCRIBE {
		return checkSubscribe(c, principal)
	}
	if c.FrameworkId == nil {
		return invalid("Expecting 'framework_id' to be present")
	}
	if k.check != nil {
		return k.check(c)
	}
	return nil
}

func checkSubscribe(c *scheduler.Call, principal string) error {
	info := c.GetSubscribe().GetFrameworkInfo()
	if c.FrameworkId != nil && info.Id != nil && c.GetFrameworkId().GetValue() != info.GetId().GetValue() {
		return invalid("'framework_id' differs from 'subscribe.framework_info.id'")
	}
	if principal != "" && info.Principal != nil && info.GetPrincipal() != principal {
		return invalidf("Authenticated principal '%s' does not match principal '%s' set in `FrameworkInfo`", principal, info.GetPrincipal())
	}
	return nil
}

func checkAcknowledgeOperation(c *scheduler.Call) error {
	a := c.GetAcknowledgeOperationStatus()
	if n := len(a.GetUuid()); n != uuidBytes {
		return invalidf("Not a valid UUID: expecting 'acknowledge_operation_status.uuid' to be %d bytes long, not %d", uuidBytes, n)
	}
	if a.AgentId == nil {
		return invalid("Expecting 'acknowledge_operation_status.agent_id' to be present")
	}
	return nil
}

func checkUpdate(c *scheduler.Call) error {
	if id := c.GetUpdateFramework().GetFrameworkInfo().GetId(); id.GetValue() != c.GetFrameworkId().GetValue() {
		return invalidf("'framework_id' differs from 'update_framework.framework_info.id'")
	}
	return nil
}

func checkAcknowledge(c *scheduler.Call) error {
	if n := len(c.GetAcknowledge().GetUuid()); n != uuidBytes {
		return invalidf("Not a valid UUID: expecting 'acknowledge.uuid' to be %d bytes long, not %d", uuidBytes, n)
	}
	return nil
}
