package spec

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/fetchplan"
)

// Bounds of what a task may have fetched.
const (
	maxURIs = 100
	maxURI  = 8 << 10 // bytes
	maxName = 4096    // bytes of a path
	maxPart = 255     // bytes of one name in it
)

// notFetched says what to do instead, of schemes that people ask for.
var notFetched = map[string]string{
	"ftp":  "FTP is not spoken here; offer the file over https",
	"ftps": "FTP is not spoken here; offer the file over https",
	"hdfs": hadoop, "hftp": hadoop, "webhdfs": hadoop, "viewfs": hadoop, "maprfs": hadoop,
	"s3": bucket, "s3n": bucket, "s3a": bucket, "gs": bucket,
	"docker": "it is an image; name it in container.mesos.image or container.docker",
}

const (
	hadoop = "that takes a Hadoop client, which nodes do not have; give an https URI of the file, as WebHDFS has"
	bucket = "that takes a client that nodes do not have; give an https URI of the object, signed if it is not public"
)

// URIs words what a command wants fetched into its sandbox, and refuses by name what cannot
// be had. local says whether files of the machine itself may be: never on a node.
func URIs(c *mesosv1.CommandInfo, local bool) ([]fetchplan.Item, error) {
	if n := len(c.GetUris()); n > maxURIs {
		return nil, fmt.Errorf("%w: command.uris has %d entries, at most %d are fetched; pack them into an archive or an image", ErrInvalidTask, n, maxURIs)
	}
	var out []fetchplan.Item
	for i, u := range c.GetUris() {
		item, err := uri(u, local)
		if err != nil {
			return nil, fmt.Errorf("%w: command.uris[%d]: %w", ErrInvalidTask, i, err)
		}
		item.Index = i
		out = append(out, item)
	}
	return out, nil
}

func uri(u *mesosv1.CommandInfo_URI, local bool) (fetchplan.Item, error) {
	var none fetchplan.Item
	raw := u.GetValue()
	switch {
	case raw == "":
		return none, fmt.Errorf("its value is empty")
	case len(raw) > maxURI:
		return none, fmt.Errorf("it has %d bytes, at most %d are allowed", len(raw), maxURI)
	case strings.ContainsFunc(raw, unicode.IsControl):
		return none, fmt.Errorf("%.80q has a control character", raw)
	}
	if strings.HasPrefix(raw, "/") {
		raw = (&url.URL{Scheme: "file", Path: raw}).String()
	}
	at, err := url.Parse(raw)
	if err != nil {
		return none, fmt.Errorf("it is not a URI; write https://HOST/PATH")
	}
	shown := at.Scheme + "://" + at.Host + at.Path
	switch why := notFetched[at.Scheme]; {
	case at.Scheme == "http" || at.Scheme == "https":
		if at.Host == "" {
			return none, fmt.Errorf("%s names no host", shown)
		}
	case at.Scheme == "file" && !local:
		return none, fmt.Errorf("%s is a file of the node's own, and tasks get none of those; offer it over https, or put it into the image", shown)
	case at.Scheme == "file" && at.Host != "" && at.Host != "localhost":
		return none, fmt.Errorf("%s is a file of another machine", shown)
	case at.Scheme == "file":
	case why != "":
		return none, fmt.Errorf("%s: %s", shown, why)
	case at.Scheme == "":
		return none, fmt.Errorf("%.200q is a path below --frameworks_home, which no node has; offer the file over https", raw)
	default:
		return none, fmt.Errorf("%s: %q is not fetched; http and https are", shown, at.Scheme)
	}
	item := fetchplan.Item{URI: raw, Executable: u.GetExecutable(), Cache: u.GetCache() && at.Scheme != "file"}
	named := u.GetOutputFile()
	if item.Output, err = outputName(raw, at, u); err != nil {
		return none, err
	}
	if named == "" {
		named = path.Base(at.Path) // a query is no part of what the file is
	}
	if u.GetExtract() && !u.GetExecutable() {
		item.Kind, item.Rest = fetchplan.KindOf(named)
	}
	return item, nil
}

// outputName is what Mesos calls the file: output_file, else all behind the last slash.
func outputName(raw string, at *url.URL, u *mesosv1.CommandInfo_URI) (string, error) {
	name := u.GetOutputFile()
	if name == "" {
		if at.Path == "" || strings.HasSuffix(at.Path, "/") {
			return "", fmt.Errorf("%s://%s%s ends without the name of a file; set output_file", at.Scheme, at.Host, at.Path)
		}
		name = raw[strings.LastIndexByte(raw, '/')+1:]
		if at.Scheme == "file" {
			name = path.Base(at.Path)
		}
	}
	parts := strings.Split(name, "/")
	switch {
	case path.IsAbs(name):
		return "", fmt.Errorf("output_file %.200q is absolute; it is a path below the sandbox", name)
	case len(name) > maxName, strings.ContainsFunc(name, unicode.IsControl),
		slices.ContainsFunc(parts, func(p string) bool { return p == "" || p == "." || p == ".." || len(p) > maxPart }):
		return "", fmt.Errorf("%.200q cannot be the name of a file in the sandbox; set output_file to another", name)
	case name == "stdout" || name == "stderr":
		return "", fmt.Errorf("the file %s of the sandbox is the task's output; set output_file to another name", name)
	}
	return name, nil
}
