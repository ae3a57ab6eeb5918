package nodedoc

import "testing"

// Tasks get no path that holds, or lies in, what is the node's own.
func TestCheckHostPath(t *testing.T) {
	for p, ok := range map[string]bool{
		"/srv": true, "/srv/data": true, "/mnt/disk1": true, "/etcetera": true, "/usr/share": true,
		"": false, "/": false, "srv": false, "/srv/": false, "/srv/../etc": false, "/etc": false, "/etc/ssl": false, "/var": false, "/var/lib": false,
		"/usr": false, "/proc/1": false, "/run": false, "/run/mesolith/secret": false, "/store": false,
	} {
		if err := CheckHostPath(p); (err == nil) != ok {
			t.Errorf("%q: %v", p, err)
		}
	}
}
