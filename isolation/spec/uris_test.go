package spec

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/fetchplan"
)

func wanted(value string, set ...func(*mesosv1.CommandInfo_URI)) *mesosv1.CommandInfo {
	u := &mesosv1.CommandInfo_URI{Value: proto.String(value)}
	for _, f := range set {
		f(u)
	}
	return &mesosv1.CommandInfo{Uris: []*mesosv1.CommandInfo_URI{u}}
}

func output(name string) func(*mesosv1.CommandInfo_URI) {
	return func(u *mesosv1.CommandInfo_URI) { u.OutputFile = &name }
}

// What a file is called and how it is unpacked follows Mesos.
func TestURIs(t *testing.T) {
	executable := func(u *mesosv1.CommandInfo_URI) { u.Executable = proto.Bool(true) }
	whole := func(u *mesosv1.CommandInfo_URI) { u.Extract = proto.Bool(false) }
	cache := func(u *mesosv1.CommandInfo_URI) { u.Cache = proto.Bool(true) }
	for _, test := range []struct {
		command *mesosv1.CommandInfo
		want    fetchplan.Item
	}{
		{wanted("http://h/a/b.txt"), fetchplan.Item{URI: "http://h/a/b.txt", Output: "b.txt", Rest: "b.txt"}},
		{wanted("https://u:p@h:8/a.tar.gz", cache), fetchplan.Item{URI: "https://u:p@h:8/a.tar.gz", Output: "a.tar.gz", Kind: fetchplan.TarGzip, Rest: "a", Cache: true}},
		{wanted("http://h/a.tgz?k=v"), fetchplan.Item{URI: "http://h/a.tgz?k=v", Output: "a.tgz?k=v", Kind: fetchplan.TarGzip, Rest: "a"}},
		{wanted("http://h/a%20b.zip"), fetchplan.Item{URI: "http://h/a%20b.zip", Output: "a%20b.zip", Kind: fetchplan.Zip, Rest: "a b"}},
		{wanted("http://h/a.tar", executable), fetchplan.Item{URI: "http://h/a.tar", Output: "a.tar", Executable: true}},
		{wanted("http://h/a.tar", whole), fetchplan.Item{URI: "http://h/a.tar", Output: "a.tar"}},
		{wanted("http://h/x", output("d/e.gz")), fetchplan.Item{URI: "http://h/x", Output: "d/e.gz", Kind: fetchplan.Gzip, Rest: "e"}},
		{wanted("http://h/x.zip", output("x")), fetchplan.Item{URI: "http://h/x.zip", Output: "x", Rest: "x"}},
		{wanted("http://h/.tar"), fetchplan.Item{URI: "http://h/.tar", Output: ".tar", Rest: ".tar"}},
		{wanted("/etc/hosts", cache), fetchplan.Item{URI: "file:///etc/hosts", Output: "hosts", Rest: "hosts"}},
		{wanted("file:///srv/b.txz"), fetchplan.Item{URI: "file:///srv/b.txz", Output: "b.txz", Kind: fetchplan.TarXZ, Rest: "b"}},
	} {
		got, err := URIs(test.command, true)
		if err != nil {
			t.Errorf("%v: %v", test.command, err)
			continue
		}
		if diff := cmp.Diff([]fetchplan.Item{test.want}, got); diff != "" {
			t.Errorf("%v: %s", test.command, diff)
		}
	}
}

// What is not fetched is refused by name, with what to do.
func TestURIsThatAreNotFetched(t *testing.T) {
	many := &mesosv1.CommandInfo{}
	for range maxURIs + 1 {
		many.Uris = append(many.Uris, &mesosv1.CommandInfo_URI{Value: proto.String("http://h/x")})
	}
	for _, test := range []struct {
		command *mesosv1.CommandInfo
		want    string
	}{
		{wanted(""), "empty"},
		{wanted("http://h/" + strings.Repeat("x", maxURI)), "at most 8192"},
		{wanted("http://h/a\nb"), "control character"},
		{wanted("http://%zz/"), "not a URI"},
		{wanted("http:///x"), "names no host"},
		{wanted("file:///etc/shadow"), "offer it over https"},
		{wanted("/etc/shadow"), "offer it over https"},
		{wanted("ftp://user:secret@h/x"), "FTP is not spoken"},
		{wanted("hdfs://h/x"), "Hadoop client"},
		{wanted("s3n://h/x"), "signed"},
		{wanted("docker://h/x"), "container.mesos.image"},
		{wanted("gopher://h/x"), `"gopher" is not fetched`},
		{wanted("app/x.tgz"), "--frameworks_home"},
		{wanted("http://h/"), "set output_file"},
		{wanted("http://h"), "set output_file"},
		{wanted("http://h/.."), "set output_file"},
		{wanted("http://h/x", output("/etc/passwd")), "is absolute"},
		{wanted("http://h/x", output("a/../../b")), "cannot be the name"},
		{wanted("http://h/x", output("a//b")), "cannot be the name"},
		{wanted("http://h/x", output(strings.Repeat("x", 256))), "cannot be the name"},
		{wanted("http://h/x", output("stdout")), "the task's output"},
		{many, "at most 100"},
	} {
		_, err := URIs(test.command, false)
		if !errors.Is(err, ErrInvalidTask) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.80v: %v, want %q", test.command, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("it tells a password: %v", err)
		}
	}
	if _, err := URIs(wanted("file://other/x"), true); err == nil || !strings.Contains(err.Error(), "another machine") {
		t.Errorf("a file of another machine: %v", err)
	}
}
