// Package mesosjson is the JSON form of Mesos v1 messages, which is not that of protojson.
//
// Written: field names as in the schema (snake_case), enums as names, 64-bit integers as
// numbers, bytes in base64, maps as objects; an unset field with an explicit default that
// is not deprecated is written with that default, an empty repeated field is left out; one
// line, no spaces. protojson reads it too.
//
// Read: leniently, as existing clients need it. Unknown fields are ignored, null is unset,
// numbers and booleans may be strings, a single value may stand for a list of one, an
// unknown enum value is dropped unless the field is required; a missing required field is
// an error. Depth, and how many values one text may contain, are bounded; the length of the text is
// the caller's to bound.
package mesosjson

import (
	"encoding/base64"
	"math"
	"sort"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Marshal returns m as JSON.
func Marshal(m proto.Message) []byte { return Append(nil, m) }

// Append adds m as JSON to dst.
func Append(dst []byte, m proto.Message) []byte {
	return appendMessage(dst, m.ProtoReflect())
}

func appendMessage(dst []byte, m protoreflect.Message) []byte {
	fields := m.Descriptor().Fields()
	dst = append(dst, '{')
	first := true
	for i := range fields.Len() {
		f := fields.Get(i)
		if !written(m, f) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, f.Name()...)
		dst = append(dst, '"', ':')
		dst = appendField(dst, f, m.Get(f))
	}
	return append(dst, '}')
}

// written tells whether a field appears: it is set, or it has a default of its own. Has is
// false for empty lists and maps.
func written(m protoreflect.Message, f protoreflect.FieldDescriptor) bool {
	if m.Has(f) {
		return true
	}
	if !f.HasDefault() {
		return false
	}
	o, _ := f.Options().(*descriptorpb.FieldOptions)
	return !o.GetDeprecated()
}

func appendField(dst []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch {
	case f.IsMap():
		return appendMap(dst, f.MapValue(), v.Map())
	case f.IsList():
		list := v.List()
		dst = append(dst, '[')
		for i := range list.Len() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, f, list.Get(i))
		}
		return append(dst, ']')
	default:
		return appendValue(dst, f, v)
	}
}

// appendMap sorts by key, so that equal messages give equal bytes.
func appendMap(dst []byte, value protoreflect.FieldDescriptor, m protoreflect.Map) []byte {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, k.String())
		dst = append(dst, ':')
		dst = appendValue(dst, value, m.Get(k))
	}
	return append(dst, '}')
}

func appendValue(dst []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendMessage(dst, v.Message())
	case protoreflect.StringKind:
		return AppendString(dst, v.String())
	case protoreflect.BytesKind:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v.Bytes())
		return append(dst, '"')
	case protoreflect.BoolKind:
		return strconv.AppendBool(dst, v.Bool())
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			dst = append(dst, '"')
			dst = append(dst, d.Name()...)
			return append(dst, '"')
		}
		return strconv.AppendInt(dst, int64(v.Enum()), 10)
	case protoreflect.DoubleKind:
		return AppendFloat(dst, v.Float(), 64)
	case protoreflect.FloatKind:
		return AppendFloat(dst, v.Float(), 32)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(dst, v.Uint(), 10)
	default:
		return strconv.AppendInt(dst, v.Int(), 10)
	}
}

// AppendFloat adds a number as Mesos writes a double: whole ones with ".0", so that
// clients in typed languages see the same type every time; what JSON has no number for as
// a string.
func AppendFloat(dst []byte, v float64, bits int) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(v, -1):
		return append(dst, `"-Infinity"`...)
	}
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		return strconv.AppendFloat(dst, v, 'e', -1, bits)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, v, 'f', -1, bits)
	for _, c := range dst[start:] {
		if c == '.' {
			return dst
		}
	}
	return append(dst, '.', '0')
}

// AppendString adds s as a JSON string. Control characters are escaped, so that a newline
// never stands inside a record; bytes that are not UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(dst, s[start:i]...)
				dst = append(dst, "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
