package zookeeper

import (
	"fmt"
	"strings"
)

// words are what operators' tools ask with four letters instead of a first frame. Those
// without an answer here are refused in the words that such tools know.
var words = []string{"ruok", "srvr", "stat", "mntr", "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "srst", "stmk", "wchc", "wchp", "wchs"}

// protocol is the version of ZooKeeper whose requests are answered. The date behind it has
// no meaning here; tools do not read the line without one.
const protocol = "3.4.14-mesolith, built on 01/01/1970 00:00 GMT"

// word answers a word; false: it is none, but the length of a frame.
func (s *Server) word(w string) (answer string, is bool) {
	for _, known := range words {
		is = is || w == known
	}
	if !is {
		return "", false
	}
	now, _ := s.read()
	s.mu.Lock()
	open := s.open
	s.mu.Unlock()
	mode := "follower"
	if now.view.Leads {
		mode = "leader"
	}
	switch {
	case w == "ruok":
		return "imok", true
	case w == "envi":
		return "Environment:\nzookeeper.version=" + protocol + "\n", true // kazoo asks for the version here
	case w != "srvr" && w != "stat" && w != "mntr":
		return w + " is not executed because it is not in the whitelist.\n", true
	case !now.serving():
		return "This ZooKeeper instance is not currently serving requests\n", true
	case w == "mntr":
		var b strings.Builder
		for _, l := range []struct {
			name  string
			value any
		}{
			{"version", protocol},
			{"packets_received", s.received.Load()},
			{"packets_sent", s.sent.Load()},
			{"num_alive_connections", open},
			{"outstanding_requests", 0},
			{"server_state", mode},
			{"znode_count", len(now.nodes)},
			{"watch_count", s.watches.Load()},
		} {
			fmt.Fprintf(&b, "zk_%s\t%v\n", l.name, l.value)
		}
		return b.String(), true
	}
	clients := ""
	if w == "stat" {
		clients = "Clients:\n\n" // who they are is nobody's business
	}
	return fmt.Sprintf("Zookeeper version: %s\n%sLatency min/avg/max: 0/0/0\nReceived: %d\nSent: %d\nConnections: %d\nOutstanding: 0\nZxid: 0x%x\nMode: %s\nNode count: %d\n",
		protocol, clients, s.received.Load(), s.sent.Load(), open, now.zxid, mode, len(now.nodes)), true
}
