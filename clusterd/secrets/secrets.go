// Package secrets takes the values of secrets out of what clusterd tells about tasks and
// executors: who may look at a cluster need not be who may read a framework's passwords.
//
// Frameworks put them, as mesos.v1.Secret, into environment variables, volumes and the
// configuration of an image's registry. All of them are found by their type, wherever a
// message has them. What keeps and starts tasks needs the values, and does not come here.
package secrets

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// Without gives a message as it is without the values of its secrets: itself, if it has none,
// else a copy.
func Without[M proto.Message](m M) M {
	if !m.ProtoReflect().IsValid() || !has(m.ProtoReflect()) {
		return m
	}
	out, ok := proto.Clone(m).(M)
	if !ok {
		panic("a message's clone is of another type")
	}
	each(out.ProtoReflect(), func(s *mesosv1.Secret) bool {
		if s.Value != nil {
			s.Value = &mesosv1.Secret_Value{Data: []byte{}}
		}
		return true
	})
	return out
}

func has(m protoreflect.Message) bool {
	found := false
	each(m, func(s *mesosv1.Secret) bool {
		found = len(s.GetValue().GetData()) > 0
		return !found
	})
	return found
}

// each calls f with every secret in a message, until f says that it is enough; then it is
// false.
func each(m protoreflect.Message, f func(*mesosv1.Secret) bool) bool {
	if s, ok := m.Interface().(*mesosv1.Secret); ok {
		return f(s)
	}
	on := true
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					on = each(v.Message(), f)
					return on
				})
			}
		case field.Message() == nil:
		case field.IsList():
			for i := 0; on && i < v.List().Len(); i++ {
				on = each(v.List().Get(i).Message(), f)
			}
		default:
			on = each(v.Message(), f)
		}
		return on
	})
	return on
}
