package mesosjson

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unmarshal reads one JSON object into m, which it resets first. The error names the field
// and the byte where the text is wrong, or the required field that is missing.
func Unmarshal(data []byte, m proto.Message) error {
	proto.Reset(m)
	d := decoder{parser{in: data}}
	if d.peek() != '{' {
		return d.unexpected("a JSON object")
	}
	if err := d.message(m.ProtoReflect()); err != nil {
		return err
	}
	if d.peek() != 0 || d.pos != len(data) {
		return d.unexpected("the end")
	}
	if proto.CheckInitialized(m) == nil {
		return nil
	}
	return missing(m.ProtoReflect(), "")
}

type decoder struct{ parser }

// errKind is wrapped where a value is of a kind that the field cannot take.
var errKind = errors.New("wrong kind of value")

func (d *decoder) message(m protoreflect.Message) error {
	fields := m.Descriptor().Fields()
	return d.object(func(name string) error {
		f := fields.ByName(protoreflect.Name(name))
		if f == nil {
			return d.skip()
		}
		if err := d.field(m, f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

// field reads the value of f. A name that comes twice counts as it came last.
func (d *decoder) field(m protoreflect.Message, f protoreflect.FieldDescriptor) error {
	if d.peek() == 'n' {
		_, err := d.word()
		m.Clear(f)
		return err
	}
	switch {
	case f.IsMap():
		m.Clear(f)
		return d.mapField(m, f)
	case f.IsList():
		m.Clear(f)
		return d.list(m, f)
	case f.Message() != nil:
		child := m.NewField(f)
		if err := d.child(child.Message()); err != nil {
			return err
		}
		m.Set(f, child)
		return nil
	}
	v, err := d.scalar(f)
	if err != nil {
		return err
	}
	if v.IsValid() {
		m.Set(f, v)
	} else {
		m.Clear(f)
	}
	return nil
}

func (d *decoder) mapField(m protoreflect.Message, f protoreflect.FieldDescriptor) error {
	entries := m.Mutable(f).Map()
	value := f.MapValue()
	return d.object(func(name string) error {
		key, err := fromText(f.MapKey(), name)
		if err != nil {
			return err
		}
		if d.peek() == 'n' {
			_, err := d.word()
			return err
		}
		if value.Message() != nil {
			v := entries.NewValue()
			if err := d.child(v.Message()); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
			entries.Set(key.MapKey(), v)
			return nil
		}
		v, err := d.scalar(value)
		if err == nil && v.IsValid() {
			entries.Set(key.MapKey(), v)
		}
		return err
	})
}

// list reads a list, or a single value as a list of one. Elements that are null or unknown
// enum values are left out.
func (d *decoder) list(m protoreflect.Message, f protoreflect.FieldDescriptor) error {
	list := m.Mutable(f).List()
	element := func() error {
		if d.peek() == 'n' {
			_, err := d.word()
			return err
		}
		if f.Message() != nil {
			v := list.NewElement()
			if err := d.child(v.Message()); err != nil {
				return fmt.Errorf("[%d]: %w", list.Len(), err)
			}
			list.Append(v)
			return nil
		}
		v, err := d.scalar(f)
		if err != nil {
			return fmt.Errorf("[%d]: %w", list.Len(), err)
		}
		if v.IsValid() {
			list.Append(v)
		}
		return nil
	}
	if d.peek() != '[' {
		return element()
	}
	return d.array(element)
}

// child reads a message below another. A google.protobuf.Duration may also be written as
// text, "600s" or "10mins".
func (d *decoder) child(m protoreflect.Message) error {
	switch {
	case d.peek() == '"' && m.Descriptor().FullName() == "google.protobuf.Duration":
		text, err := d.str()
		if err != nil {
			return err
		}
		return setDuration(m, text)
	case d.peek() != '{':
		return d.errorf("an object is due: %w", errKind)
	}
	return d.message(m)
}

// scalar reads a value that is neither message nor list; an invalid Value without an error
// is an enum value that this schema does not know.
func (d *decoder) scalar(f protoreflect.FieldDescriptor) (protoreflect.Value, error) {
	switch c := d.peek(); {
	case c == '"':
		text, err := d.str()
		if err != nil {
			return protoreflect.Value{}, err
		}
		v, err := fromText(f, text)
		if err != nil {
			return v, d.errorf("%w", err)
		}
		return v, nil
	case c == '-' || c >= '0' && c <= '9':
		text, err := d.number()
		if err != nil {
			return protoreflect.Value{}, err
		}
		v, err := fromNumber(f, text)
		if err != nil {
			return v, d.errorf("%w", err)
		}
		return v, nil
	case c == '{' || c == '[':
		return protoreflect.Value{}, d.errorf("a single value is due: %w", errKind)
	}
	word, err := d.word()
	if err != nil {
		return protoreflect.Value{}, err
	}
	if f.Kind() != protoreflect.BoolKind {
		return protoreflect.Value{}, d.errorf("%s given for a %s: %w", word, f.Kind(), errKind)
	}
	return protoreflect.ValueOfBool(word == "true"), nil
}

// fromText gives a string its meaning for a field: numbers and booleans may be quoted.
func fromText(f protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BytesKind:
		b, err := fromBase64(text)
		return protoreflect.ValueOfBytes(b), err
	case protoreflect.EnumKind:
		if v := f.Enum().Values().ByName(protoreflect.Name(text)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), nil
		}
		return protoreflect.Value{}, nil
	case protoreflect.BoolKind:
		if text == "true" || text == "false" {
			return protoreflect.ValueOfBool(text == "true"), nil
		}
		return protoreflect.Value{}, fmt.Errorf("%q is neither true nor false: %w", text, errKind)
	default:
		return fromNumber(f, text)
	}
}

// fromBase64 takes both alphabets, with or without padding, as clients' libraries differ.
func fromBase64(text string) ([]byte, error) {
	enc := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, fmt.Errorf("not base64: %w", err)
	}
	return b, nil
}

// fromNumber gives the text of a number its meaning for a field.
func fromNumber(f protoreflect.FieldDescriptor, text string) (v protoreflect.Value, err error) {
	switch f.Kind() {
	case protoreflect.DoubleKind:
		x, err := toFloat(text)
		return protoreflect.ValueOfFloat64(x), err
	case protoreflect.FloatKind:
		x, err := toFloat(text)
		return protoreflect.ValueOfFloat32(float32(x)), err
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		i, err := toInt(text, 64)
		return protoreflect.ValueOfInt64(i), err
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		i, err := toInt(text, 32)
		return protoreflect.ValueOfInt32(int32(i)), err
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		u, err := toUint(text, 64)
		return protoreflect.ValueOfUint64(u), err
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		u, err := toUint(text, 32)
		return protoreflect.ValueOfUint32(uint32(u)), err
	case protoreflect.EnumKind:
		i, err := toInt(text, 32)
		if err != nil || f.Enum().Values().ByNumber(protoreflect.EnumNumber(i)) == nil {
			return protoreflect.Value{}, err
		}
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(i)), nil
	}
	return protoreflect.Value{}, fmt.Errorf("a number given for a %s: %w", f.Kind(), errKind)
}

func toFloat(text string) (float64, error) {
	switch text {
	case "Infinity":
		return math.Inf(1), nil
	case "-Infinity":
		return math.Inf(-1), nil
	case "NaN":
		return math.NaN(), nil
	}
	p := parser{in: []byte(text)}
	if _, err := p.number(); err != nil || p.pos != len(text) {
		return 0, fmt.Errorf("%q is not a number: %w", text, errKind)
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is out of range: %w", text, errKind)
	}
	return x, nil
}

// toInt also takes "5.0" and "1e3": some languages have no other numbers.
func toInt(text string, bits int) (int64, error) {
	if i, err := strconv.ParseInt(text, 10, bits); err == nil {
		return i, nil
	}
	x, err := toFloat(text)
	if err != nil {
		return 0, err
	}
	limit := math.Ldexp(1, bits-1)
	if x != math.Trunc(x) || x < -limit || x >= limit {
		return 0, fmt.Errorf("%q is no whole number of %d bits: %w", text, bits, errKind)
	}
	return int64(x), nil
}

func toUint(text string, bits int) (uint64, error) {
	if u, err := strconv.ParseUint(text, 10, bits); err == nil {
		return u, nil
	}
	x, err := toFloat(text)
	if err != nil {
		return 0, err
	}
	if x != math.Trunc(x) || x < 0 || x >= math.Ldexp(1, bits) {
		return 0, fmt.Errorf("%q is no whole number of %d bits from 0 up: %w", text, bits, errKind)
	}
	return uint64(x), nil
}

// durationUnits are those of Mesos' command lines and of protojson.
var durationUnits = []struct {
	suffix string
	unit   time.Duration
}{
	{"weeks", 7 * 24 * time.Hour},
	{"days", 24 * time.Hour},
	{"hrs", time.Hour},
	{"mins", time.Minute},
	{"secs", time.Second},
	{"ms", time.Millisecond},
	{"us", time.Microsecond},
	{"ns", time.Nanosecond},
	{"s", time.Second},
}

// ParseDuration reads a duration as Mesos writes it: a number and ns, us, ms, secs (or s),
// mins, hrs, days or weeks.
func ParseDuration(text string) (time.Duration, error) {
	for _, u := range durationUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		x, err := toFloat(number)
		if err != nil {
			break
		}
		ns := x * float64(u.unit)
		if !(math.Abs(ns) < math.MaxInt64) {
			return 0, fmt.Errorf("duration %q is out of range: %w", text, errKind)
		}
		return time.Duration(math.Round(ns)), nil
	}
	return 0, fmt.Errorf("duration %q is not a number with ns, us, ms, secs, mins, hrs, days or weeks: %w", text, errKind)
}

func setDuration(m protoreflect.Message, text string) error {
	d, err := ParseDuration(text)
	if err != nil {
		return err
	}
	fields := m.Descriptor().Fields()
	m.Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(int64(d/time.Second)))
	m.Set(fields.ByName("nanos"), protoreflect.ValueOfInt32(int32(d%time.Second)))
	return nil
}

// missing names the first required field that is missing, with the way to it.
func missing(m protoreflect.Message, path string) error {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Cardinality() == protoreflect.Required && !m.Has(f) {
			return fmt.Errorf("missing required field %s%s", path, f.Name())
		}
	}
	var err error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		err = missingBelow(f, v, path)
		return err == nil
	})
	return err
}

func missingBelow(f protoreflect.FieldDescriptor, v protoreflect.Value, path string) error {
	switch {
	case f.IsMap() && f.MapValue().Message() != nil:
		var err error
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			err = missing(v.Message(), fmt.Sprintf("%s%s[%q].", path, f.Name(), k.String()))
			return err == nil
		})
		return err
	case f.IsList() && f.Message() != nil:
		for i := range v.List().Len() {
			err := missing(v.List().Get(i).Message(), fmt.Sprintf("%s%s[%d].", path, f.Name(), i))
			if err != nil {
				return err
			}
		}
	case !f.IsList() && !f.IsMap() && f.Message() != nil:
		return missing(v.Message(), fmt.Sprintf("%s%s.", path, f.Name()))
	}
	return nil
}
