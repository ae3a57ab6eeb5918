// Package sbom writes down what an image is made of, as SPDX 2.3 in JSON:
// every Go module of every program, the C libraries that isolated is linked
// with, and every Debian package, each with version, checksum, licence and
// where its source is.
//
// The document holds no time of its own and its namespace comes from the
// image's checksum, so that the same image has the same bill. A licence that
// no rule recognises is NOASSERTION, never a guess.
package sbom

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Component is one thing inside the image.
type Component struct {
	Kind    string // "go", "deb", "c" or "program"
	Name    string
	Version string
	SHA256  string   // of the file, hexadecimal; empty where there is no one file
	GoSum   string   // "h1:…", for Go modules
	Licence string   // an SPDX expression; empty is NOASSERTION
	Source  string   // URL or package name of the source
	Within  []string // names of the programs that contain it; empty: the image itself
	Comment string
}

// Document describes an image with its components.
func Document(image, version, imageSHA256 string, components []Component) ([]byte, error) {
	d := document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT",
		Name:      image + "-" + version,
		Namespace: "https://spdx.org/spdxdocs/" + image + "-" + version + "-" + imageSHA256,
		Creation:  creation{Created: "1970-01-01T00:00:00Z", Creators: []string{"Tool: lith"}, Comment: "The time is a constant: the same image has the same bill."},
	}
	root := spdxPackage{
		ID: "SPDXRef-image", Name: image, Version: version, Download: "NOASSERTION",
		Concluded: "NOASSERTION", Declared: "NOASSERTION", Copyright: "NOASSERTION",
		Checksums: []checksum{{"SHA256", imageSHA256}},
	}
	d.Packages = append(d.Packages, root)
	d.relate(d.ID, "DESCRIBES", root.ID)
	sorted := slices.Clone(components)
	slices.SortFunc(sorted, func(a, b Component) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	for _, c := range sorted {
		p, err := c.spdx()
		if err != nil {
			return nil, err
		}
		d.Packages = append(d.Packages, p)
		if len(c.Within) == 0 {
			d.relate(root.ID, "CONTAINS", p.ID)
		}
		for _, program := range slices.Sorted(slices.Values(c.Within)) {
			d.relate(id("program", program, ""), "CONTAINS", p.ID)
		}
	}
	raw, err := json.MarshalIndent(d, "", "  ")
	return append(raw, '\n'), err
}

type document struct {
	SPDXVersion   string         `json:"spdxVersion"`
	DataLicense   string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
	Comment  string   `json:"comment,omitempty"`
}

type spdxPackage struct {
	ID         string        `json:"SPDXID"`
	Name       string        `json:"name"`
	Version    string        `json:"versionInfo,omitempty"`
	Download   string        `json:"downloadLocation"`
	Analyzed   bool          `json:"filesAnalyzed"`
	Checksums  []checksum    `json:"checksums,omitempty"`
	Concluded  string        `json:"licenseConcluded"`
	Declared   string        `json:"licenseDeclared"`
	Copyright  string        `json:"copyrightText"`
	SourceInfo string        `json:"sourceInfo,omitempty"`
	Comment    string        `json:"comment,omitempty"`
	External   []externalRef `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type externalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

func (d *document) relate(from, kind, to string) {
	d.Relationships = append(d.Relationships, relationship{from, kind, to})
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func id(kind, name, version string) string {
	text := "SPDXRef-" + kind + "-" + name
	if version != "" {
		text += "-" + version
	}
	return notInID.ReplaceAllString(text, "-")
}

func (c Component) spdx() (spdxPackage, error) {
	version := c.Version
	if c.Kind == "program" {
		version = ""
	}
	p := spdxPackage{
		ID: id(c.Kind, c.Name, version), Name: c.Name, Version: c.Version, Download: "NOASSERTION",
		Concluded: cmp.Or(c.Licence, "NOASSERTION"), Declared: cmp.Or(c.Licence, "NOASSERTION"), Copyright: "NOASSERTION",
		Comment: c.Comment,
	}
	switch c.Kind {
	case "go":
		// Where the module lives by its own name; the purl says how to fetch it.
		p.Download = "https://" + c.Name
		p.External = []externalRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + c.Name + "@" + c.Version}}
		p.SourceInfo = c.Source
	case "deb", "c":
		p.External = []externalRef{{"PACKAGE-MANAGER", "purl", "pkg:deb/debian/" + c.Name + "@" + strings.ReplaceAll(c.Version, "+", "%2B") + "?arch=amd64"}}
		p.SourceInfo = "source package " + c.Source
	}
	if c.SHA256 != "" {
		p.Checksums = append(p.Checksums, checksum{"SHA256", c.SHA256})
	}
	if c.GoSum != "" {
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(c.GoSum, "h1:"))
		if err != nil || len(sum) != 32 {
			return p, fmt.Errorf("bill of materials: checksum %q of %s is not sound", c.GoSum, c.Name)
		}
		p.Comment = strings.TrimSpace(p.Comment + " go.sum h1 (SHA256 of the module's file list): " + hex.EncodeToString(sum))
	}
	return p, nil
}
