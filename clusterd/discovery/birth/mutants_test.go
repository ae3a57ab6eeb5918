package birth

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutant is a simpler rule, each once tempting: the search has to find what is wrong with
// it. The sources are changed on the way to the compiler, so that the rules need no hooks.
type mutant struct {
	name, file, rule, simpler string
	orders                    smallSearch // the search that finds it
}

var mutants = []mutant{
	{
		"dead when fewer than q are elsewhere", "dead.go",
		"	if len(outside) >= q {\n		return true\n	}\n	if newest", "	if len(outside) >= q-1 {\n		return true\n	}\n	if newest",
		smallSearch{},
	},
	{
		"a living generation is discarded for the higher", "dead.go",
		"	q := n/2 + 1\n	outside", "	if n > 0 {\n		return true\n	}\n	q := n/2 + 1\n	outside",
		smallSearch{},
	},
	{
		"a majority of a stale configuration is missing", "dead.go",
		"	if !all {\n		return false\n	}\n	return !electable", "	return !electable",
		smallSearch{faults: budgets{lost: 1}},
	},
	{
		"a majority by number is enough to wait for", "dead.go",
		"slices.Contains(v.Voters, candidate) && ", "",
		smallSearch{faults: budgets{reboots: 1}},
	},
}

func TestSimplerRulesAreFoundWrong(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(source, []byte(m.rule)); n != 1 {
				t.Fatalf("%s holds the rule %d times: change this table too", m.file, n)
			}
			changed := filepath.Join(t.TempDir(), m.file)
			if err := os.WriteFile(changed, bytes.Replace(source, []byte(m.rule), []byte(m.simpler), 1), 0o600); err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(dir, m.file): changed}})
			if err != nil {
				t.Fatal(err)
			}
			list := filepath.Join(t.TempDir(), "overlay.json")
			if err := os.WriteFile(list, overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("go", "test", "-vet=off", "-count=1", "-overlay", list, "-run", "^TestEveryOrderOfThreeMasters$", ".", "-orders", m.orders.String()).CombinedOutput()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			found := ""
			for _, l := range lines {
				for _, why := range []string{wrongTwo, wrongLost, wrongBorn, wrongStuck} {
					if strings.Contains(l, why) {
						found = strings.TrimSpace(l)
					}
				}
			}
			if err == nil || found == "" {
				t.Fatalf("the search finds nothing wrong with it: %v\n%s", err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
			}
			t.Logf("found: %s", found)
		})
	}
}
