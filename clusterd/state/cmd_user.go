package state

import "fmt"

// Ids that names get: above those that images give, below what every container maps.
const (
	firstUser = 20000
	maxUsers  = 40000
	maxUser   = 256 // bytes of a name
)

// NameUser gives a user's name an id, once and for all nodes. A name that has one keeps
// it: the same name is the same user wherever its tasks run.
type NameUser struct{ Name string }

func (NameUser) kind() kind { return kindNameUser }

func (c NameUser) encode(w *writer) { w.string(c.Name) }

func decodeNameUser(r *reader) Command { return NameUser{Name: r.string()} }

func (c NameUser) apply(s *State) (Result, error) {
	if c.Name == "" || len(c.Name) > maxUser {
		return Result{}, fmt.Errorf("user's name of %d bytes: %w", len(c.Name), ErrCommandInvalid)
	}
	if _, known := s.userIDs[c.Name]; known {
		return Result{}, nil
	}
	if len(s.users) >= maxUsers {
		return Result{}, fmt.Errorf("%d names of users: %w", maxUsers, ErrListFull)
	}
	s.addUser(c.Name)
	return Result{}, nil
}

// addUser gives the next id; snapshots share what the list had before.
func (s *State) addUser(name string) {
	s.userIDs[name] = firstUser + uint32(len(s.users))
	s.users = append(s.users, name)
}

// UserNamed is the name that was given an id.
func (s *State) UserNamed(id uint32) (name string, ok bool) {
	if id < firstUser || id-firstUser >= uint32(len(s.users)) {
		return "", false
	}
	return s.users[id-firstUser], true
}

// UserID is the id of a name that was given one.
func (s *State) UserID(name string) (uint32, bool) {
	id, ok := s.userIDs[name]
	return id, ok
}
