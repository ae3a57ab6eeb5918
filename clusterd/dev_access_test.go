package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// The files of the options say who may call; what is wrong with one is said with its name,
// line and column, and nothing is started.
func TestDevAccess(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f := devFlags{
		acls:        write("acls.json", `{"permissive":false,"run_tasks":[{"principals":{"values":["m"]},"users":{"values":["u"]}}]}`),
		rateLimits:  write("limits.json", `{"limits":[{"principal":"m","qps":5}]}`),
		credentials: write("credentials.json", `{"credentials":[{"principal":"m","secret":"s"},{"principal":"o","secret":"s","role":"operator"}]}`),
	}
	p, err := f.policy()
	if err != nil {
		t.Fatal(err)
	}
	if !p.ACLs.Allowed("m", acl.RunTask, acl.Named("u")) || p.ACLs.Allowed("m", acl.RunTask, acl.Named("root")) || p.RateLimits.Limits[0].QPS != 5 {
		t.Errorf("%+v", p)
	}
	if len(p.Credentials) != 2 || p.Credentials[0].Role != nodedoc.RoleFramework || p.Credentials[1].Role != nodedoc.RoleOperator || !p.Plaintext || p.Anonymous != nodedoc.AnonymousFramework {
		t.Errorf("%+v", p)
	}
	if p, err := (devFlags{}).policy(); err != nil || p.ACLs != nil || p.RateLimits != nil || p.Credentials != nil {
		t.Errorf("%+v, %v", p, err)
	}
	for _, c := range []struct {
		f    devFlags
		want string
	}{
		{devFlags{acls: filepath.Join(dir, "none")}, "--acls: open "},
		{devFlags{acls: write("a1", "{\n \"run_task\": []}")}, "a1:2:2: unknown key \"run_task\" in the ACLs — did you mean \"run_tasks\"?"},
		{devFlags{acls: write("a2", strings.Repeat(" ", acl.MaxBytes+5))}, "at most 262144 are allowed"},
		{devFlags{rateLimits: write("r1", `{"limits":[{"principal":"m","qps":0}]}`)}, "r1:1:35: limits[0].qps must be"},
		{devFlags{credentials: write("c1", `[]`)}, "--credentials: " + filepath.Join(dir, "c1") + ": it is not JSON"},
		{devFlags{credentials: write("c2", `{}`)}, "it names 0 principals"},
		{devFlags{credentials: write("c3", `{"credentials":[{"principal":"m"}]}`)}, "credentials[0] has no principal or no secret"},
		{devFlags{credentials: write("c4", `{"credentials":[{"principal":"m","secret":"s"},{"principal":"m","secret":"s"}]}`)}, "is there twice"},
		{devFlags{credentials: write("c5", `{"credentials":[{"principal":"m","secret":"s","role":"king"}]}`)}, `role "king" is not one of`},
	} {
		if _, err := c.f.policy(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}
