package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/jsontree"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/ratelimit"
)

// policy is who may call: everybody as a framework, as far as the files of the options
// allow it, and with which roles who has credentials.
func (f devFlags) policy() (auth.Policy, error) {
	p := auth.Policy{Plaintext: true, Anonymous: nodedoc.AnonymousFramework}
	for _, file := range []struct {
		option, name string
		most         int
		read         func(*jsontree.Node) jsontree.Problems
	}{
		{"--acls", f.acls, acl.MaxBytes, func(n *jsontree.Node) (bad jsontree.Problems) { p.ACLs, bad = acl.Decode(n); return bad }},
		{"--rate-limits", f.rateLimits, ratelimit.MaxBytes, func(n *jsontree.Node) (bad jsontree.Problems) { p.RateLimits, bad = ratelimit.Decode(n); return bad }},
	} {
		if file.name == "" {
			continue
		}
		text, err := readBounded(file.name, file.most)
		if err != nil {
			return p, fmt.Errorf("%s: %w", file.option, err)
		}
		n, bad := jsontree.Parse(text, file.most)
		if len(bad) == 0 {
			bad = file.read(n)
		}
		if len(bad) > 0 {
			return p, fmt.Errorf("%s:\n%w", file.option, bad.In(file.name))
		}
	}
	if f.credentials == "" {
		return p, nil
	}
	text, err := readBounded(f.credentials, maxDevCredentials)
	if err == nil {
		p.Credentials, err = devCredentials(text)
	}
	if err != nil {
		return p, fmt.Errorf("--credentials: %s: %w", f.credentials, err)
	}
	return p, nil
}

// readBounded reads a file of at most most bytes, and one more of a longer one.
func readBounded(name string, most int) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w; name a file that can be read, or leave the option out", err)
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, int64(most)+1))
}

const (
	maxDevCredentials = 64 << 10
	maxDevPrincipals  = 100
)

// devCredentials reads Mesos' form of credentials; "role" is ours, and framework if it is
// not there.
func devCredentials(text []byte) (nodedoc.APICredentials, error) {
	if len(text) > maxDevCredentials {
		return nil, fmt.Errorf("it has more than %d bytes", maxDevCredentials)
	}
	var file struct {
		Credentials []struct{ Principal, Secret, Role string }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("it is not JSON as {\"credentials\": [{\"principal\": …, \"secret\": …, \"role\": …}]}: %w", err)
	}
	if n := len(file.Credentials); n == 0 || n > maxDevPrincipals {
		return nil, fmt.Errorf("it names %d principals; name 1 to %d", n, maxDevPrincipals)
	}
	roles := []string{nodedoc.RoleReader, nodedoc.RoleFramework, nodedoc.RoleOperator, nodedoc.RoleAdmin}
	var out nodedoc.APICredentials
	for i, c := range file.Credentials {
		if c.Role == "" {
			c.Role = nodedoc.RoleFramework
		}
		switch {
		case c.Principal == "" || c.Secret == "":
			return nil, fmt.Errorf("credentials[%d] has no principal or no secret", i)
		case slices.ContainsFunc(out, func(o nodedoc.APICredential) bool { return o.Principal == c.Principal }):
			return nil, fmt.Errorf("credentials[%d]: principal %.80q is there twice", i, c.Principal)
		case !slices.Contains(roles, c.Role):
			return nil, fmt.Errorf("credentials[%d]: role %.80q is not one of %v", i, c.Role, roles)
		}
		hash, err := nodedoc.HashSecret(c.Secret)
		if err != nil {
			return nil, errors.New("a secret cannot be hashed: " + err.Error())
		}
		out = append(out, nodedoc.APICredential{Principal: c.Principal, SecretHash: hash, Role: c.Role})
	}
	return out, nil
}
