package packages

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

// fakeApt puts programs named apt-get and apt-cache before the host's. They
// know the packages of the given index and serve the given bodies by
// "name=version". Every call is noted in the file that is returned.
func fakeApt(t *testing.T, index string, bodies map[string]string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("index", index, 0o644)
	for what, body := range bodies {
		write("body-"+what, body, 0o644)
	}
	script := fmt.Sprintf(`#!/bin/sh
echo "$(basename "$0") $*" >> %[1]s/calls
while [ "$1" = -o ]; do shift 2; done
case "$1" in
update) exit 0 ;;
download) [ -e "%[1]s/body-$3" ] || { echo "E: Version for '$3' was not found" >&2; exit 100; }
	cp "%[1]s/body-$3" "./${3%%%%=*}.deb" ;;
pkgnames) sed -n "s/^Package: \($2.*\)/\1/p" %[1]s/index ;;
show) awk -v want="$2" 'BEGIN { RS = ""; ORS = "\n\n" } $2 == want' %[1]s/index ;;
esac
`, dir)
	write("apt-get", script, 0o755)
	write("apt-cache", script, 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return calls
}

func stanzaText(name, version, body string) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nSHA256: %s\n\n", name, version, sum(body))
}

func open(t *testing.T, release bool) (*Store, *[]string) {
	t.Helper()
	var told []string
	s, err := Open(t.TempDir(), release, func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) })
	if err != nil {
		t.Fatal(err)
	}
	return s, &told
}

func pin(name, version, body string) Pin {
	return Pin{Package: name, Version: version, SHA256: sum(body), Licence: "MIT"}
}

func TestThePinnedVersionIsFetchedOnceAndChecked(t *testing.T) {
	calls := fakeApt(t, "", map[string]string{"tool=1.0": "body"})
	s, _ := open(t, true)
	for range 2 {
		f, err := s.Get(t.Context(), pin("tool", "1.0", "body"))
		if err != nil {
			t.Fatal(err)
		}
		if raw, _ := os.ReadFile(f.Path); string(raw) != "body" || !f.Pinned {
			t.Errorf("got %q, pinned %v", raw, f.Pinned)
		}
	}
	if raw, _ := os.ReadFile(calls); strings.Count(string(raw), "download") != 1 {
		t.Errorf("apt was called like this:\n%s", raw)
	}
}

func TestADamagedCacheIsFetchedAgain(t *testing.T) {
	fakeApt(t, "", map[string]string{"tool=1.0": "body"})
	s, _ := open(t, true)
	f, err := s.Get(t.Context(), pin("tool", "1.0", "body"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Path, []byte("bidy"), 0o644); err != nil {
		t.Fatal(err)
	}
	if f, err = s.Get(t.Context(), pin("tool", "1.0", "body")); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(f.Path); string(raw) != "body" {
		t.Errorf("got %q", raw)
	}
}

func TestOtherBytesThanPinnedAreRefused(t *testing.T) {
	fakeApt(t, stanzaText("tool", "1.0", "body"), map[string]string{"tool=1.0": "evil"})
	for _, release := range []bool{true, false} {
		s, _ := open(t, release)
		_, err := s.Get(t.Context(), pin("tool", "1.0", "body"))
		if err == nil || !strings.Contains(err.Error(), "its sha256 is "+sum("evil")+", expected "+sum("body")) {
			t.Errorf("release %v: got %v", release, err)
		}
	}
}

func TestAVersionGoneFromTheArchive(t *testing.T) {
	index := stanzaText("tool", "1.2", "newer")
	fakeApt(t, index, map[string]string{"tool=1.2": "newer"})

	s, told := open(t, false)
	f, err := s.Get(t.Context(), pin("tool", "1.0", "body"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Version != "1.2" || f.Pinned {
		t.Errorf("took %+v", f)
	}
	if all := strings.Join(*told, "\n"); !strings.Contains(all, "tool: 1.0 is gone from the archive; taking 1.2") {
		t.Errorf("told:\n%s", all)
	}

	s, _ = open(t, true)
	if _, err := s.Get(t.Context(), pin("tool", "1.0", "body")); !errors.Is(err, ErrNotPinned) {
		t.Errorf("a release build got %v, want ErrNotPinned", err)
	}
}

func TestTheNewestKernelOfTheSeriesReplacesAMissingOne(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	host, err := hostSystem()
	if err != nil || host.ID != "debian" {
		t.Skipf("this host is %q, the index below is Debian's", host.ID)
	}
	index := stanzaText("linux-image-6.12.99+deb12-amd64-unsigned", "6.12.99-1", "k99") +
		stanzaText("linux-image-6.12.120+deb12-amd64-unsigned", "6.12.120-1", "k120")
	fakeApt(t, index, map[string]string{"linux-image-6.12.120+deb12-amd64-unsigned=6.12.120-1": "k120"})
	s, told := open(t, false)
	files, err := s.Kernel(t.Context(), Kernel{Series: "6.12", Pin: pin("linux-image-6.12.117+deb12-amd64-unsigned", "6.12.117-1", "k117")})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || files[0].Version != "6.12.120-1" {
		t.Errorf("took %+v", files)
	}
	if all := strings.Join(*told, "\n"); !strings.Contains(all, "6.12.117-1 is not in this host's archive; taking linux-image-6.12.120") {
		t.Errorf("told:\n%s", all)
	}
}

func TestKernelPackages(t *testing.T) {
	debian := []string{
		"linux-image-6.12.107+deb12-amd64-unsigned", "linux-image-6.12.117+deb12-amd64-unsigned", "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
		"linux-image-6.12.117+deb12-rt-amd64-unsigned", "linux-image-6.12.117+deb12-amd64-dbg", "linux-image-6.1.0-40-amd64-unsigned", "linux-image-6.12.99+deb12-amd64-unsigned",
	}
	ubuntu := []string{"linux-image-unsigned-6.8.0-9-generic", "linux-image-unsigned-6.8.0-88-generic", "linux-image-unsigned-6.8.0-1010-oracle", "linux-image-generic"}
	for _, c := range []struct {
		osRelease string
		names     []string
		want      []string
	}{
		{"ID=debian\n", debian, []string{"linux-image-6.12.117+deb12-amd64-unsigned"}},
		{"ID=ubuntu\nID_LIKE=debian\n", ubuntu, []string{"linux-image-unsigned-6.8.0-88-generic", "linux-modules-6.8.0-88-generic", "linux-modules-extra-6.8.0-88-generic"}},
		{"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", ubuntu, []string{"linux-image-unsigned-6.8.0-88-generic", "linux-modules-6.8.0-88-generic", "linux-modules-extra-6.8.0-88-generic"}},
		{"ID=debian\n", nil, nil},
	} {
		if diff := cmp.Diff(c.want, parseSystem(c.osRelease).kernelPackages(c.names, "6.12")); diff != "" {
			t.Errorf("%s%s", c.osRelease, diff)
		}
	}
}

func TestTheLockFileOfThisCheckoutIsSound(t *testing.T) {
	lock, err := ReadLock("../lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if lock.Kernel.Series != "6.12" || len(lock.Base) < 5 {
		t.Errorf("lock %+v", lock)
	}
}

func TestLockFileMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		`{"format": 2}`: "format 2",
		`{"format": 1, "kernel": {"series": "6.12", "package": "k", "version": "1", "sha256": "abc", "licence": "x"}}`: `package "k" needs`,
		`{"format": 1, "colour": 3}`: "colour",
		`{`:                          "unexpected EOF",
	} {
		file := filepath.Join(t.TempDir(), "lock.json")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadLock(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", text, err, want)
		}
	}
}

func FuzzParseStanzas(f *testing.F) {
	f.Add([]byte(stanzaText("a", "1", "x") + stanzaText("b", "2", "y")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, s := range parseStanzas(raw) {
			if s.Package == "" {
				t.Fatal("a stanza without a package")
			}
		}
	})
}
