package faces

import (
	"encoding/base64"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

const (
	recordType  = "application/recordio"
	protoType   = "application/x-protobuf"
	sessionCall = `{"type":"LAUNCH_NESTED_CONTAINER_SESSION","launch_nested_container_session":{"container_id":{"value":"n","parent":{"value":"c-t-1"}},"command":{"value":"true"}}}`
	outputCall  = `{"type":"ATTACH_CONTAINER_OUTPUT","attach_container_output":{"container_id":{"value":"c-t-1"}}}`
	waitCall    = `{"type":"WAIT_CONTAINER","wait_container":{"container_id":{"value":"c-t-1"}}}`
	firstRecord = `{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"CONTAINER_ID","container_id":{"value":"c-t-1"}}}`
)

var operatorHeader = "Basic " + base64.StdEncoding.EncodeToString([]byte("o:s"))

// agentOfOperators is an agent that knows an operator, and whose isolated is away: a call that
// passes all that is checked before is 503.
func agentOfOperators(t *testing.T) *httptest.Server {
	t.Helper()
	hash, err := nodedoc.HashSecret("s")
	if err != nil {
		t.Fatal(err)
	}
	return agentServer(t, auth.Policy{Plaintext: true, Anonymous: nodedoc.AnonymousNone, Credentials: nodedoc.APICredentials{
		{Principal: "o", SecretHash: hash, Role: nodedoc.RoleOperator},
	}})
}

// Combinations of media types of calls about containers, as Mesos answers them.
func TestMediaOfContainerCalls(t *testing.T) {
	srv := agentOfOperators(t)
	record := string(recordio.Append(nil, []byte(firstRecord)))
	for _, test := range []struct {
		body   string
		header []string
		want   int
	}{
		{sessionCall, []string{"Content-Type", jsonType}, 503},
		{sessionCall, []string{"Content-Type", jsonType, "Accept", jsonType}, 503},
		{sessionCall, []string{"Content-Type", jsonType, "Accept", protoType}, 503},
		{sessionCall, []string{"Content-Type", jsonType, "Accept", recordType, "Message-Accept", jsonType}, 503},
		{sessionCall, []string{"Content-Type", jsonType, "Accept", recordType, "Message-Accept", protoType}, 503},
		{sessionCall, []string{"Content-Type", jsonType, "Accept", recordType, "Message-Accept", "text/html"}, 406},
		{sessionCall, []string{"Content-Type", jsonType, "Accept", jsonType, "Message-Accept", jsonType}, 406},
		{sessionCall, []string{"Content-Type", jsonType, "Message-Accept", jsonType}, 406},
		{sessionCall, []string{"Content-Type", jsonType, "Accept", "text/html"}, 406},
		{sessionCall, []string{"Content-Type", jsonType, "Message-Content-Type", jsonType}, 415},
		{outputCall, []string{"Content-Type", jsonType, "Accept", recordType, "Message-Accept", jsonType}, 503},
		{outputCall, []string{"Content-Type", jsonType, "Message-Accept", protoType}, 406},
		{waitCall, []string{"Content-Type", jsonType}, 503},
		{waitCall, []string{"Content-Type", jsonType, "Accept", recordType, "Message-Accept", jsonType}, 406},
		{`{"type":"GET_HEALTH"}`, []string{"Content-Type", jsonType, "Message-Accept", jsonType}, 406},
		{`{"type":"GET_HEALTH"}`, []string{"Content-Type", jsonType, "Message-Content-Type", jsonType}, 415},
		{record, []string{"Content-Type", recordType, "Message-Content-Type", jsonType}, 503},
		{record, []string{"Content-Type", recordType}, 400},
		{record, []string{"Content-Type", recordType, "Message-Content-Type", "text/plain"}, 415},
		{record, []string{"Content-Type", recordType, "Message-Content-Type", jsonType, "Accept", "text/html"}, 406},
		{record[:40], []string{"Content-Type", recordType, "Message-Content-Type", jsonType}, 400},
		{"x", []string{"Content-Type", recordType, "Message-Content-Type", jsonType}, 400},
		{firstRecord, []string{"Content-Type", jsonType}, 415},
	} {
		if status, _, text := call(t, srv.URL+"/api/v1", test.body, append(test.header, "Authorization", operatorHeader)...); status != test.want {
			t.Errorf("%.60s %v: %d %s, want %d", test.body, test.header, status, text, test.want)
		}
	}
}

// What a call about a container lacks is named, before anybody is asked.
func TestContainerCallsAreValidated(t *testing.T) {
	srv := agentOfOperators(t)
	for body, want := range map[string]string{
		`{"type":"LAUNCH_CONTAINER"}`: "launch_container",
		`{"type":"WAIT_CONTAINER","wait_container":{"container_id":{"value":""}}}`:                                                                                      "container_id",
		`{"type":"WAIT_NESTED_CONTAINER","wait_nested_container":{"container_id":{"value":"c"}}}`:                                                                       "parent",
		`{"type":"KILL_NESTED_CONTAINER","kill_nested_container":{"container_id":{"value":"c"}}}`:                                                                       "parent",
		`{"type":"LAUNCH_NESTED_CONTAINER_SESSION","launch_nested_container_session":{"container_id":{"value":"c"}}}`:                                                   "parent",
		`{"type":"LAUNCH_CONTAINER","launch_container":{"container_id":{"value":"c"},"command":{"value":"true"}}}`:                                                      "stand alone",
		`{"type":"LAUNCH_CONTAINER","launch_container":{"container_id":{"value":"c","parent":{"value":"p"}},"limits":{"a":{"value":1}}}}`:                               "limits",
		`{"type":"LAUNCH_NESTED_CONTAINER","launch_nested_container":{"container_id":{"value":"c","parent":{"value":"p"}},"container":{"type":"MESOS","tty_info":{}}}}`: "tty_info",
	} {
		if status, _, text := call(t, srv.URL+"/api/v1", body, "Content-Type", jsonType, "Authorization", operatorHeader); status != 400 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
}

// What changes something needs an operator; waiting does not.
func TestContainerCallsNeedAnOperator(t *testing.T) {
	srv := agentServer(t, open)
	for body, want := range map[string]int{sessionCall: 403, outputCall: 403, waitCall: 503} {
		if status, _, text := call(t, srv.URL+"/api/v1", body, "Content-Type", jsonType); status != want {
			t.Errorf("%s: %d %s, want %d", body, status, text, want)
		}
	}
	status, _, text := call(t, srv.URL+"/api/v1", string(recordio.Append(nil, []byte(firstRecord))), "Content-Type", recordType, "Message-Content-Type", jsonType)
	if status != 403 {
		t.Errorf("input: %d %s", status, text)
	}
}
