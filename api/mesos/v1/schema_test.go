package mesosv1_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/api/mesos/v1/allocator"
	"github.com/mesolith/mesolith/api/mesos/v1/executor"
	"github.com/mesolith/mesolith/api/mesos/v1/maintenance"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/mesos/v1/quota"
	resourceprovider "github.com/mesolith/mesolith/api/mesos/v1/resource_provider"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// TestSchema compares the compiled descriptors with testdata/schema.txt, the list of every
// message, field, number, label, type, default and enum value of Mesos 1.11. Whatever is
// added or changed here that 1.11 does not have would be misread by existing clients.
func TestSchema(t *testing.T) {
	raw, err := os.ReadFile("testdata/schema.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(raw)), "\n")
	var have []string
	for _, f := range []protoreflect.FileDescriptor{
		mesosv1.File_mesos_v1_mesos_proto,
		agent.File_mesos_v1_agent_agent_proto,
		allocator.File_mesos_v1_allocator_allocator_proto,
		executor.File_mesos_v1_executor_executor_proto,
		maintenance.File_mesos_v1_maintenance_maintenance_proto,
		master.File_mesos_v1_master_master_proto,
		quota.File_mesos_v1_quota_quota_proto,
		resourceprovider.File_mesos_v1_resource_provider_resource_provider_proto,
		scheduler.File_mesos_v1_scheduler_scheduler_proto,
	} {
		have = append(have, fmt.Sprintf("file %s %s", f.Path(), f.Package()))
		have = append(have, describeEnums(f.Enums())...)
		have = append(have, describeMessages(f.Messages())...)
	}
	for _, line := range have {
		if !slices.Contains(want, line) {
			t.Errorf("not in Mesos 1.11: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(have, line) {
			t.Errorf("missing: %s", line)
		}
	}
	if len(have) != len(want) {
		t.Errorf("%d lines, want %d", len(have), len(want))
	}
}

// TestEnumDefault pins what proto2 makes of an unset enum: the value declared first.
func TestEnumDefault(t *testing.T) {
	if got := (&mesosv1.TaskStatus{}).GetState(); got != mesosv1.TaskState_TASK_STAGING {
		t.Errorf("default task state is %v, want TASK_STAGING", got)
	}
}

func describeMessages(ms protoreflect.MessageDescriptors) []string {
	var out []string
	for i := range ms.Len() {
		m := ms.Get(i)
		if m.Fields().Len() == 0 {
			out = append(out, "message "+string(m.FullName()))
		}
		for j := range m.Fields().Len() {
			out = append(out, describeField(m.Fields().Get(j)))
		}
		out = append(out, describeEnums(m.Enums())...)
		out = append(out, describeMessages(m.Messages())...)
	}
	return out
}

func describeField(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	switch {
	case f.IsMap():
		kind = "map"
	case f.Message() != nil:
		kind = string(f.Message().FullName())
	case f.Enum() != nil:
		kind = string(f.Enum().FullName())
	}
	line := fmt.Sprintf("%s %s=%d %s %s", f.Parent().FullName(), f.Name(), f.Number(), f.Cardinality(), kind)
	if f.HasDefault() {
		line += " default=" + describeDefault(f)
	}
	if o, ok := f.Options().(*descriptorpb.FieldOptions); ok && o.GetDeprecated() {
		line += " deprecated"
	}
	return line
}

func describeDefault(f protoreflect.FieldDescriptor) string {
	if f.Enum() != nil {
		return string(f.DefaultEnumValue().Name())
	}
	if f.Kind() == protoreflect.DoubleKind {
		return strconv.FormatFloat(f.Default().Float(), 'g', -1, 64)
	}
	return f.Default().String()
}

func describeEnums(es protoreflect.EnumDescriptors) []string {
	var out []string
	for i := range es.Len() {
		e := es.Get(i)
		for j := range e.Values().Len() {
			v := e.Values().Get(j)
			out = append(out, fmt.Sprintf("%s %s=%d", e.FullName(), v.Name(), v.Number()))
		}
	}
	return out
}
