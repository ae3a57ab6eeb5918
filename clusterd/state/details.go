package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Details is what tells a resource from another of the same name: for whom it is reserved
// and by whom, and which disk it is. A resource that is free for all, or that its agent
// came with as one role's, needs none.
type Details struct {
	// Reservations are a stack: each one refines the one before, for a role below its role.
	// The last one's role is Resource.Role.
	Reservations []Reservation
	Disk         DiskInfo
	// Revocable: it is beyond what the agent has, and may be taken back.
	Revocable bool
}

// Reservation is one step of a stack.
type Reservation struct {
	// Static: the agent came with it. Only the first of a stack can be.
	Static    bool
	Role      string
	Principal string // of who made it; empty: nobody said
	Labels    []Label
}

// Label is a pair of strings of somebody else's; without a value it is only a key.
type Label struct {
	Key   string
	Value *string
}

// DiskInfo is where a disk resource lies and what sits on it.
type DiskInfo struct {
	Volume string   // id of the persistent volume on it; empty: none
	Kind   DiskKind // RootDisk: the agent's work directory
	Root   string   // of the disk, on the agent; empty for RootDisk
	Shared bool     // many tasks may use the volume at a time
}

// DiskKind has the numbers of mesos.v1.Resource.DiskInfo.Source.Type, which are in the log.
type DiskKind uint8

const (
	RootDisk  DiskKind = 0
	PathDisk  DiskKind = 1 // a directory: many may share it
	MountDisk DiskKind = 2 // a file system of its own: somebody's whole or nobody's
)

// Mounting is how a persistent volume was asked to be seen in containers. It does not tell
// one volume from another.
type Mounting struct {
	Path      string // in the container
	ReadOnly  bool
	Principal string // of who made the volume
	// Serial tells a volume from one of the same name that was destroyed before it; 0 where
	// somebody only names it.
	Serial uint64
}

// plain: Resource.Role says all of it.
func (d Details) plain() bool {
	if d.Disk != (DiskInfo{}) || d.Revocable || len(d.Reservations) > 1 {
		return false
	}
	return len(d.Reservations) == 0 || d.Reservations[0].Static && d.Reservations[0].Principal == "" && len(d.Reservations[0].Labels) == 0
}

// Role is the role that a stack reserves for; empty: it is not reserved.
func (d Details) Role() string {
	if n := len(d.Reservations); n > 0 {
		return d.Reservations[n-1].Role
	}
	return ""
}

// With makes a resource one with these details.
func (r Resource) With(d Details) Resource {
	r.Role, r.Detail = d.Role(), ""
	if !d.plain() {
		r.Detail = d.encoded()
	}
	if d.Disk.Volume == "" {
		r.Mounting = nil
	}
	return r
}

// Details are what tells the resource from others.
func (r Resource) Details() Details {
	if r.Detail != "" {
		d, _ := parseDetail(r.Detail) // what is no detail never gets into a bag
		return d
	}
	if r.Role != "" {
		return Details{Reservations: []Reservation{{Static: true, Role: r.Role}}}
	}
	return Details{}
}

// Refined says whether it is reserved by more than one step.
func (r Resource) Refined() bool { return r.Detail != "" && r.Detail[0]&stepsMask > 1 }

// Shared says whether many tasks may use it at a time.
func (r Resource) Shared() bool { return r.Detail != "" && r.Detail[0]&sharedMark != 0 }

// Revocable says whether it may be taken back.
func (r Resource) Revocable() bool { return r.Detail != "" && r.Detail[0]&revocableMark != 0 }

// AnyShared says whether any of them is shared.
func (rs Resources) AnyShared() bool {
	for i := range rs {
		if rs[i].Shared() {
			return true
		}
	}
	return false
}

// AnyRevocable says whether any of them may be taken back.
func (rs Resources) AnyRevocable() bool {
	for i := range rs {
		if rs[i].Revocable() {
			return true
		}
	}
	return false
}

// Private are the resources that only one may use at a time.
func (rs Resources) Private() Resources {
	if !rs.AnyShared() {
		return rs
	}
	return slices.DeleteFunc(slices.Clone(rs), Resource.Shared)
}

// Join adds what two hold of one agent: what is shared and in both is there once.
func (rs Resources) Join(o Resources) (Resources, error) {
	if o.AnyShared() {
		o = slices.DeleteFunc(slices.Clone(o), func(r Resource) bool {
			_, both := slices.BinarySearchFunc(rs, r, compareResource)
			return both && r.Shared()
		})
	}
	return rs.Plus(o)
}

// Refined says whether any of them is.
func (rs Resources) Refined() bool {
	for i := range rs {
		if rs[i].Refined() {
			return true
		}
	}
	return false
}

// Volume is the id of the persistent volume that it is; empty: it is none.
func (r Resource) Volume() string {
	if r.Detail == "" {
		return ""
	}
	return r.Details().Disk.Volume
}

// whole: nobody can have a part of it.
func (r Resource) whole() bool {
	if r.Detail == "" {
		return false
	}
	d := r.Details().Disk
	return d.Volume != "" || d.Kind == MountDisk
}

// made says whether somebody made it what it is, other than its agent.
func (r Resource) made() bool {
	if r.Detail == "" {
		return false
	}
	d := r.Details()
	return d.Disk.Volume != "" || slices.ContainsFunc(d.Reservations, func(v Reservation) bool { return !v.Static })
}

// Base is the resource as its agent came with it.
func (r Resource) Base() Resource {
	if !r.made() {
		return r
	}
	d := r.Details()
	for i, v := range d.Reservations {
		if !v.Static {
			d.Reservations = d.Reservations[:i]
			break
		}
	}
	d.Disk.Volume, d.Disk.Shared = "", false
	return r.With(d)
}

// Made are the resources that somebody made what they are: reserved, or a volume.
func (rs Resources) Made() Resources {
	var out Resources
	for _, r := range rs {
		if r.made() {
			out = append(out, r)
		}
	}
	return out
}

// Bases are resources as their agents came with them.
func (rs Resources) Bases() (Resources, error) {
	out := make([]Resource, 0, len(rs))
	for _, r := range rs {
		out = append(out, r.Base())
	}
	return NewResources(out...)
}

// Hold says whether o can be taken out of rs without cutting what is whole.
func (rs Resources) Hold(o Resources) bool {
	for _, want := range o {
		if !want.whole() {
			continue
		}
		if i, found := slices.BinarySearchFunc(rs, want, compareResource); !found || rs[i].Milli != want.Milli {
			return false
		}
	}
	return rs.Contains(o)
}

// Remade is what an agent offers that came with some resources and whose others somebody
// made what they are. Where it does not bring as much any more as was made of it, what was
// made stays: it is somebody's.
func Remade(came, made Resources) (Resources, error) {
	bases, err := made.Bases()
	if err != nil {
		return nil, err
	}
	left, _ := came.Minus(bases)
	return left.Plus(made)
}

// The first number of details counts the steps of the reservation and holds two marks. A
// varint of less than 256 shows all of that in its first byte: the mark of revocable ones is
// where it says that a second byte follows.
const (
	stepsMask     = 1<<6 - 1
	sharedMark    = 1 << 6
	revocableMark = 1 << 7
)

// encoded is the one form of details, by which they are compared.
func (d Details) encoded() string {
	var w writer
	head := uint64(len(d.Reservations)) // maxReservations leaves room for the marks
	if d.Disk.Shared {
		head |= sharedMark
	}
	if d.Revocable {
		head |= revocableMark
	}
	w.uint(head)
	for _, v := range d.Reservations {
		w.bool(v.Static)
		w.string(v.Role)
		w.string(v.Principal)
		w.labels(v.Labels)
	}
	w.string(d.Disk.Volume)
	w.uint(uint64(d.Disk.Kind))
	w.string(d.Disk.Root)
	return string(w.buf)
}

func (w *writer) labels(list []Label) {
	list = slices.Clone(list)
	slices.SortFunc(list, compareLabel)
	w.uint(uint64(len(list)))
	for _, l := range list {
		w.string(l.Key)
		w.bool(l.Value != nil)
		if l.Value != nil {
			w.string(*l.Value)
		}
	}
}

func compareLabel(a, b Label) int {
	if c := cmp.Compare(a.Key, b.Key); c != 0 {
		return c
	}
	switch {
	case a.Value == nil && b.Value == nil:
		return 0
	case a.Value == nil:
		return -1
	case b.Value == nil:
		return 1
	}
	return cmp.Compare(*a.Value, *b.Value)
}

func parseDetail(raw string) (Details, error) {
	r := &reader{buf: []byte(raw)}
	var d Details
	head := r.uint()
	if head > stepsMask|sharedMark|revocableMark {
		return d, ErrCorrupt
	}
	d.Disk.Shared, d.Revocable = head&sharedMark != 0, head&revocableMark != 0
	for range head & stepsMask {
		v := Reservation{Static: r.bool(), Role: r.string(), Principal: r.string()}
		for range r.count() {
			l := Label{Key: r.string()}
			if r.bool() {
				value := r.string()
				l.Value = &value
			}
			v.Labels = append(v.Labels, l)
		}
		if r.err != nil {
			break
		}
		d.Reservations = append(d.Reservations, v)
	}
	d.Disk.Volume, d.Disk.Kind, d.Disk.Root = r.string(), DiskKind(min(r.uint(), 255)), r.string()
	return d, r.done()
}

// checkDetail says what is wrong with what a decoder found.
func (r Resource) checkDetail() error {
	if r.Detail == "" {
		if r.Mounting != nil {
			return fmt.Errorf("%s is mounted and no volume: %w", r.Name, ErrResourceInvalid)
		}
		return nil
	}
	d, err := parseDetail(r.Detail)
	switch {
	case err != nil:
		return fmt.Errorf("details of %s: %w", r.Name, err)
	case d.plain() || d.encoded() != r.Detail || d.Role() != r.Role || (r.Mounting != nil) != (d.Disk.Volume != ""):
		return fmt.Errorf("details of %s: %w", r.Name, ErrCorrupt)
	}
	return d.Check(r.Name)
}

// Bounds of what somebody may make of resources. All of an agent's go into one record of a
// snapshot, and into one of the agent's journal.
const (
	maxReservations = 32      // steps of a stack
	maxDetail       = 4 << 10 // bytes of one resource's details
	maxMade         = 1000    // made resources of an agent
	maxMadeBytes    = 1 << 20 // of their details and mountings
)

// size is how many bytes tell a resource from others.
func (r Resource) size() int {
	n := len(r.Name) + len(r.Role) + len(r.Detail)
	if r.Mounting != nil {
		n += len(r.Mounting.Path) + len(r.Mounting.Principal)
	}
	return n
}

// checkMade says what is wrong with all that is made of an agent's resources.
func (rs Resources) checkMade() error {
	made, bytes := 0, 0
	volumes := map[string]bool{}
	for _, r := range rs {
		if !r.made() {
			continue
		}
		made, bytes = made+1, bytes+r.size()
		id := r.Volume()
		if id == "" {
			continue
		}
		key := r.Role + "\x00" + id
		if volumes[key] {
			return fmt.Errorf("volume %s of role %s: %w", id, r.Role, ErrVolumeDuplicate)
		}
		volumes[key] = true
	}
	if made > maxMade || bytes > maxMadeBytes {
		return fmt.Errorf("%d reservations and volumes with labels and names of %d bytes, an agent may have %d and %d: %w", made, bytes, maxMade, maxMadeBytes, ErrListFull)
	}
	return nil
}

// Check says what is wrong with details of a resource of a name.
func (d Details) Check(name string) error {
	if n := len(d.Reservations); n > maxReservations {
		return fmt.Errorf("%s is reserved in %d steps, at most %d are allowed: %w", name, n, maxReservations, ErrResourceInvalid)
	}
	if n := len(d.encoded()); n > maxDetail {
		return fmt.Errorf("the reservations of %s, with their labels, have %d bytes, at most %d are allowed: %w", name, n, maxDetail, ErrResourceInvalid)
	}
	if d.Disk != (DiskInfo{}) && name != Disk {
		return fmt.Errorf("%s is on a disk; only %s can be: %w", name, Disk, ErrResourceInvalid)
	}
	if d.Disk.Shared && d.Disk.Volume == "" {
		return fmt.Errorf("%s is shared; only persistent volumes can be: %w", name, ErrResourceInvalid)
	}
	if d.Revocable && (len(d.Reservations) > 0 || d.Disk != (DiskInfo{})) {
		return fmt.Errorf("%s is revocable, and reserved or a disk of its own, which what may be taken back cannot be: %w", name, ErrResourceInvalid)
	}
	if d.Disk.Volume != "" && len(d.Reservations) == 0 {
		return fmt.Errorf("persistent volume %s is not reserved for any role: %w", d.Disk.Volume, ErrResourceInvalid)
	}
	if d.Disk.Kind > MountDisk || (d.Disk.Kind != RootDisk) != (d.Disk.Root != "") {
		return fmt.Errorf("disk of kind %d at %q: %w", d.Disk.Kind, d.Disk.Root, ErrResourceInvalid)
	}
	for i, v := range d.Reservations {
		switch {
		case v.Role == "" || v.Role == "*":
			return fmt.Errorf("%s is reserved for the role %q, which is everybody: %w", name, v.Role, ErrResourceInvalid)
		case i > 0 && v.Static:
			return fmt.Errorf("%s is reserved statically for role %q after another reservation: %w", name, v.Role, ErrResourceInvalid)
		case i > 0 && !strings.HasPrefix(v.Role, d.Reservations[i-1].Role+"/"):
			return fmt.Errorf("%s is reserved for role %q inside a reservation for %q, which it is not below: %w", name, v.Role, d.Reservations[i-1].Role, ErrResourceInvalid)
		}
	}
	return nil
}

// words print what tells a resource from others: (role, principal; role, principal)[volume].
func (r Resource) words() string {
	if r.Detail == "" {
		if r.Role == "" {
			return ""
		}
		return "(" + r.Role + ")"
	}
	d := r.Details()
	var out strings.Builder
	for i, v := range d.Reservations {
		out.WriteString([]string{"(", "; "}[min(i, 1)] + v.Role)
		if v.Principal != "" {
			out.WriteString(", " + v.Principal)
		}
	}
	if len(d.Reservations) > 0 {
		out.WriteByte(')')
	}
	if d.Disk != (DiskInfo{}) {
		out.WriteString("[" + strings.Trim(d.Disk.Root+" "+d.Disk.Volume, " ") + "]")
	}
	if d.Disk.Shared {
		out.WriteString("<shared>")
	}
	if d.Revocable {
		out.WriteString("{rev}")
	}
	return out.String()
}

// Volumes are the persistent volumes among resources.
func (rs Resources) Volumes() Resources {
	var out Resources
	for _, r := range rs {
		if r.Volume() != "" {
			out = append(out, r)
		}
	}
	return out
}
