package nodedoc

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/ratelimit"
)

const testClusterID = "0123456789abcdef0123456789abcdef"

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func testAnchor() Anchor {
	return Anchor{
		Format: Format, Cluster: "demo", ClusterID: testClusterID,
		OwnerKey: testKey(1).Public().(ed25519.PublicKey), CAPin: strings.Repeat("ab", 32),
	}
}

func testDocument() Document {
	return Document{
		Format: Format, Cluster: "demo", ClusterID: testClusterID, Revision: 3,
		DocumentHash: strings.Repeat("cd", 32), Name: "m1", Mode: ModeRAM, Zone: "a",
		Attributes:    map[string]string{"site": "fra", "a<b": "&"},
		Masters:       Masters{Version: 1, Names: []string{"m1", "m2", "m3"}, WaitMS: 30_000},
		Raft:          Raft{HeartbeatMS: 250, StallMS: 2000},
		AgentsGraceMS: 25_000, AdoptWaitMS: 600_000,
		API:             testAPI(),
		Networks:        []Network{{Name: "lan", Match: Match{Link: "any-up"}, DHCP: true}},
		Time:            Time{Servers: []string{"dhcp"}, WaitMS: 30_000},
		WatchdogSeconds: 30, Reserve: Reserve{CPUs: 0.1}, RAMStorePercent: 25, Modules: "early",
		Tasks:    Tasks{Image: "base", Report: "container", Pool: "10.88.0.0/16"},
		Peers:    []Peer{{Name: "m1", Address: "10.7.0.11"}},
		SignedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// testAPI has rules with what JSON escapes.
func testAPI() API {
	a := API{Anonymous: AnonymousNone, ACLs: &acl.ACLs{}, RateLimits: &ratelimit.Limits{}}
	for text, into := range map[string]json.Unmarshaler{
		`{"permissive":false,"run_tasks":[{"principals":{"values":["a<b&c"]},"users":{"type":"ANY"}}],"view_roles":[{"principals":{"type":"ANY"},"roles":{"values":["eng/%"]}}]}`: a.ACLs,
		`{"limits":[{"principal":"a<b","qps":0.25}],"aggregate_default_qps":1e3}`:                                                                                                 a.RateLimits,
	} {
		if err := into.UnmarshalJSON([]byte(text)); err != nil {
			panic(err)
		}
	}
	return a
}

func testCluster() ClusterDocument {
	key := testKey(7).Public().(ed25519.PublicKey)
	return ClusterDocument{
		Format: Format, Cluster: "demo", ClusterID: testClusterID, Revision: 3,
		Masters: Masters{Version: 1, Names: []string{"m1"}, WaitMS: 30_000}, File: "apiVersion: v1\n",
		Nodes:    map[string]Admission{"m1": {BootKey: key, Addresses: []string{"10.7.0.11"}}, "m2": {BootKey: key}},
		SignedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func TestSealOpen(t *testing.T) {
	want := testDocument()
	raw, err := Seal(want, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(raw, testAnchor())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("document changed on its way (-want +got):\n%s", d)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(pretty.Bytes(), testAnchor()); err != nil {
		t.Errorf("white space broke the document: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	raw, err := Seal(testDocument(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	reseal := func(payload string) []byte {
		sig := ed25519.Sign(testKey(1), append([]byte(nodeContext), payload...))
		out, err := canonical(Signed{Payload: json.RawMessage(payload), Signature: sig, KeyID: "x"})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	payload, err := canonical(testDocument())
	if err != nil {
		t.Fatal(err)
	}
	otherID := testAnchor()
	otherID.ClusterID = strings.Repeat("0", 32)
	otherOwner := testAnchor()
	otherOwner.OwnerKey = testKey(2).Public().(ed25519.PublicKey)
	clusterRaw, _, err := SealCluster(testCluster(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		raw    []byte
		anchor Anchor
		want   error  // or
		text   string // part of the message
	}{
		{"another owner", raw, otherOwner, ErrSignature, ""},
		{"another cluster", raw, otherID, ErrOtherCluster, ""},
		{"a changed name", bytes.Replace(raw, []byte(`"name":"m1"`), []byte(`"name":"m2"`), 1), testAnchor(), ErrSignature, ""},
		{"a cluster document in its place", clusterRaw, testAnchor(), ErrSignature, ""},
		{"too long", append(bytes.Clone(raw), bytes.Repeat([]byte(" "), MaxNodeDocument)...), testAnchor(), ErrTooLong, ""},
		{"something after it", append(bytes.Clone(raw), "{}"...), testAnchor(), nil, "follows the end"},
		{"not JSON", []byte("hello"), testAnchor(), nil, "envelope"},
		{"an empty file", nil, testAnchor(), nil, "envelope"},
		{"a key twice", reseal(`{"format":1,` + string(payload[1:])), testAnchor(), ErrNotCanonical, ""},
		{"an unknown key", reseal(`{"formt":1,` + string(payload[1:])), testAnchor(), nil, "formt"},
		{"an unknown format", reseal(strings.Replace(string(payload), `"format":1`, `"format":2`, 1)), testAnchor(), ErrFormat, ""},
		{"two masters", reseal(strings.Replace(string(payload), `"m1","m2","m3"`, `"m1","m2"`, 1)), testAnchor(), nil, "2 masters, not 1, 3 or 5"},
		{"a path of no znode", reseal(strings.Replace(string(payload), `"networks":`, `"zookeeper":"/a/","networks":`, 1)), testAnchor(), nil, "zookeeper: \"/a/\" is no path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(c.raw, c.anchor)
			if err == nil {
				t.Fatal("accepted")
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %q is not %q", err, c.want)
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q does not contain %q", err, c.text)
			}
		})
	}
}

func TestPathsOfZooKeeper(t *testing.T) {
	for p, good := range map[string]bool{
		"/mesos": true, "/a/b-c_1.x": true, "/" + strings.Repeat("x", 254): true,
		"": false, "/": false, "mesos": false, "/mesos/": false, "//mesos": false, "/a/../b": false, "/a b": false, "/ä": false, "/a\x00": false,
		"/" + strings.Repeat("x", 255): false,
	} {
		if err := CheckZooKeeper(p); (err == nil) != good {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestSealRefusesALongDocument(t *testing.T) {
	doc := testDocument()
	for range 60 {
		doc.KernelArgs = append(doc.KernelArgs, strings.Repeat("x", 1000))
	}
	if _, err := Seal(doc, testKey(1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("error %v, want %v", err, ErrTooLong)
	}
}

func TestSealOpenCluster(t *testing.T) {
	want := testCluster()
	raw, hash, err := SealCluster(want, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	if len(hash) != 64 {
		t.Errorf("hash %q is not a SHA-256", hash)
	}
	got, err := OpenCluster(raw, testAnchor())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("document changed on its way (-want +got):\n%s", d)
	}
	want.Masters.Names = []string{"m9"}
	if _, _, err := SealCluster(want, testKey(1)); err == nil {
		t.Error("a master that is no node was accepted")
	}
}

func TestAnchor(t *testing.T) {
	want := testAnchor()
	text, err := want.Inline()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseInlineAnchor(text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("anchor changed on its way (-want +got):\n%s", d)
	}
	if len(text) > MaxAnchor {
		t.Errorf("inline anchor has %d characters, more than the kernel line's %d", len(text), MaxAnchor)
	}
	for _, bad := range []string{"", "{}", "!", strings.Repeat("a", 4000)} {
		if _, err := ParseInlineAnchor(bad); err == nil {
			t.Errorf("anchor %.20q was accepted", bad)
		}
	}
}

func TestCredentials(t *testing.T) {
	hash, err := HashSecret("open sesame")
	if err != nil {
		t.Fatal(err)
	}
	creds := APICredentials{{Principal: "marathon", SecretHash: hash, Role: RoleFramework}}
	checker, err := NewChecker(creds)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		principal, secret string
		ok                bool
	}{
		{"marathon", "open sesame", true},
		{"marathon", "open sesame", true}, // the second time from memory
		{"marathon", "open sesam", false},
		{"marathon", "", false},
		{"chronos", "open sesame", false},
		{"", "", false},
		{"marathon", strings.Repeat("x", 1<<20), false},
	} {
		role, ok := creds.Check(c.principal, c.secret)
		if ok != c.ok || ok != (role == RoleFramework) {
			t.Errorf("Check(%q, %.20q) = %q, %v", c.principal, c.secret, role, ok)
		}
		role, ok = checker.Check(c.principal, c.secret)
		if ok != c.ok || ok != (role == RoleFramework) {
			t.Errorf("Checker.Check(%q, %.20q) = %q, %v", c.principal, c.secret, role, ok)
		}
	}
}

func TestCredentialsRefuse(t *testing.T) {
	hash, err := HashSecret("s")
	if err != nil {
		t.Fatal(err)
	}
	for name, creds := range map[string]APICredentials{
		"no principal":    {{SecretHash: hash, Role: RoleReader}},
		"a colon":         {{Principal: "a:b", SecretHash: hash, Role: RoleReader}},
		"twice":           {{Principal: "a", SecretHash: hash, Role: RoleReader}, {Principal: "a", SecretHash: hash, Role: RoleAdmin}},
		"unknown role":    {{Principal: "a", SecretHash: hash, Role: "root"}},
		"a plain secret":  {{Principal: "a", SecretHash: "s", Role: RoleReader}},
		"too many rounds": {{Principal: "a", SecretHash: strings.Replace(hash, "$20000$", "$99000000$", 1), Role: RoleReader}},
	} {
		if _, err := NewChecker(creds); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestIssuerSecrets(t *testing.T) {
	hash, err := HashSecret("s")
	if err != nil {
		t.Fatal(err)
	}
	want := IssuerSecrets{
		IssuingKeyPEM: "k", IssuingCertPEM: "c", CAPEM: "r",
		APICredentials: APICredentials{{Principal: "p", SecretHash: hash, Role: RoleAdmin}},
	}
	raw, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseIssuerSecrets(raw)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("secrets changed on their way (-want +got):\n%s", d)
	}
	if _, err := ParseIssuerSecrets(make([]byte, MaxIssuerSecrets+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("error %v, want %v", err, ErrTooLong)
	}
}

// FuzzOpen feeds bytes from outside; whatever opens must encode to itself.
func FuzzOpen(f *testing.F) {
	raw, err := Seal(testDocument(), testKey(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"payload":{},"signature":"","keyID":""}`))
	f.Add([]byte(`{"payload":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if doc, err := Open(raw, testAnchor()); err == nil && doc.Name != "m1" {
			t.Errorf("a forged document of %q was opened", doc.Name)
		}
		_, _ = OpenCluster(raw, testAnchor())
	})
}

// FuzzCheck skips the signature, so that the checks behind it meet odd documents.
func FuzzCheck(f *testing.F) {
	raw, err := canonical(testDocument())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	cl, err := canonical(testCluster())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cl)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var doc Document
		if decodeStrict(raw, &doc) == nil && doc.Check() == nil {
			if _, err := canonical(doc); err != nil {
				t.Errorf("a checked document cannot be encoded: %v", err)
			}
		}
		var cluster ClusterDocument
		if decodeStrict(raw, &cluster) == nil && cluster.Check() == nil {
			if _, err := canonical(cluster); err != nil {
				t.Errorf("a checked cluster document cannot be encoded: %v", err)
			}
		}
	})
}

// FuzzSecrets covers the anchor, credentials and issuer secrets.
func FuzzSecrets(f *testing.F) {
	a, err := testAnchor().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a)
	f.Add([]byte(`{"issuingKeyPEM":"","issuingCertPEM":"","caPEM":"","apiCredentials":[{"principal":"p","secretHash":"pbkdf2-sha256$1$AAAAAAAAAAAAAAAA$AA","role":"admin"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = ParseAnchor(raw)
		_, _ = ParseInlineAnchor(string(raw))
		_, _ = ParseIssuerSecrets(raw)
	})
}
