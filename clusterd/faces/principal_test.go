package faces

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// A framework belongs to the principal that subscribed it, whether its FrameworkInfo says
// so or not: nobody else may call in its name or take it over.
func TestFrameworksBelongToTheirPrincipal(t *testing.T) {
	hash, err := nodedoc.HashSecret("secret")
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, auth.Policy{Plaintext: true, Anonymous: nodedoc.AnonymousNone, Credentials: nodedoc.APICredentials{
		{Principal: "owner", SecretHash: hash, Role: nodedoc.RoleFramework}, {Principal: "other", SecretHash: hash, Role: nodedoc.RoleFramework},
	}}, "m1", "a1")
	basic := func(user string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":secret"))
	}
	for _, via := range []string{"m1", "a1"} {
		s := c.subscribe(via, "owned", "Authorization", basic("owner"))
		post := func(user, body, stream string) (int, string) {
			t.Helper()
			header := []string{"Content-Type", "application/json", "Authorization", basic(user)}
			if stream != "" {
				header = append(header, "Mesos-Stream-Id", stream)
			}
			status, _, text := c.post(via, "/api/v1/scheduler", body, header...)
			return status, text
		}
		revive := `{"type":"REVIVE","framework_id":{"value":"` + s.id + `"}}`
		mismatch := "Authenticated principal 'other' does not match principal that subscribed the framework"
		want := func(what, user, body, stream string, status int, part string) {
			t.Helper()
			if got, text := post(user, body, stream); got != status || !strings.Contains(text, part) {
				t.Errorf("%s via %s: %d %q, want %d %q", what, via, got, text, status, part)
			}
		}
		want("the owner's call", "owner", revive, s.stream, 202, "")
		want("a stranger's call", "other", revive, s.stream, 400, mismatch)
		want("a stranger's call without a stream id", "other", revive, "", 400, mismatch)
		subscribe := `{"type":"SUBSCRIBE","framework_id":{"value":"` + s.id + `"},"subscribe":{"framework_info":{"user":"u","name":"n","id":{"value":"` + s.id + `"}}}}`
		want("a stranger's takeover", "other", subscribe, "", 200, `the principal \"owner\" cannot be changed to \"other\"`)
		forged := strings.Replace(subscribe, `"user"`, `"principal":"owner","user"`, 1)
		want("a stranger's takeover in the owner's name", "other", forged, "", 400, "Authenticated principal 'other' does not match principal 'owner' set in `FrameworkInfo`")
		want("the owner's call after that", "owner", revive, s.stream, 202, "")
		s.cancel()
		eventually(t, "the framework is not subscribed", func() bool {
			status, text := post("owner", revive, s.stream)
			return status == 403 && text == "Framework is not subscribed"
		})
		want("a stranger's call when it is away", "other", revive, s.stream, 400, mismatch)
	}
}
