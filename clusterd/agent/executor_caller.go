package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// Who calls as an executor is known by where it calls from: the address of its container, or,
// in the node's own network, the user of its socket, which belongs to the container's range
// of ids alone. The token that each executor finds in its environment is one more proof:
// who sends one must send the right one. Where containers are plain processes (--dev on a
// host that cannot isolate them) every process of this host may call.

// Caller is where a call to the executor API comes from.
type Caller struct {
	From  netip.AddrPort
	To    netip.AddrPort // of this node
	Token string         // as sent; empty: none was
}

// firstIDs is how many ids of the host's a container has from its first one on: 65,536 and
// one for a user beyond them.
const firstIDs = 65536 + 1

type claims struct {
	Framework string `json:"fid"`
	Executor  string `json:"eid"`
	Container string `json:"cid"`
	jwt.RegisteredClaims
}

// tokenKey signs executors' tokens. It lives as long as the agent's id, as executors do.
func (a *Agent) tokenKey() []byte {
	key := sha256.Sum256([]byte("executors' tokens\x00" + a.key))
	return key[:]
}

// token is what an executor may show: a JWT with the claims that Mesos' agents sign.
func (a *Agent) token(t *task.Task) string {
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{Framework: t.FrameworkID, Executor: t.Execution.ID, Container: t.ContainerID}).SignedString(a.tokenKey())
	if err != nil { // three strings can always be encoded
		a.log.Error("token of an executor cannot be signed", "container", t.ContainerID, "error", err)
	}
	return signed
}

func (a *Agent) identify(who Caller, ex *task.Task) error {
	refuse := func(why string) error {
		return fmt.Errorf("executor %s of framework %s, call from %s: %w: %s", ex.Execution.ID, ex.FrameworkID, who.From, ErrNotTheExecutor, why)
	}
	if who.Token != "" {
		var said claims
		_, err := jwt.ParseWithClaims(who.Token, &said, func(*jwt.Token) (any, error) { return a.tokenKey(), nil }, jwt.WithValidMethods([]string{"HS256"}))
		switch {
		case err != nil:
			return refuse("its token is not one of this agent's: " + err.Error())
		case said.Framework != ex.FrameworkID || said.Executor != ex.Execution.ID || said.Container != ex.ContainerID:
			return refuse("its token is another executor's")
		}
	}
	c := ex.Container
	if c == nil || c.GetPhase() < keeper.Container_RUNNING {
		return fmt.Errorf("executor %s of framework %s: its container is not known to run: %w", ex.Execution.ID, ex.FrameworkID, ErrRecovering)
	}
	from := who.From.Addr().Unmap()
	for _, ip := range c.GetIpAddresses() {
		if ip == from.String() {
			return nil
		}
	}
	if len(c.GetIpAddresses()) > 0 {
		return refuse("its container's address is " + strings.Join(c.GetIpAddresses(), ", "))
	}
	if !from.IsLoopback() && from.String() != a.cfg.Address && from != who.To.Addr().Unmap() && !ownAddress(from) {
		return refuse("it runs in this node's network, and that is no address of this node")
	}
	if c.GetFirstId() == 0 {
		return nil
	}
	uid, err := socketUser(who.From, who.To)
	if err != nil {
		return refuse("whose socket it is cannot be seen: " + err.Error())
	}
	if uid < c.GetFirstId() || uid >= c.GetFirstId()+firstIDs {
		return refuse(fmt.Sprintf("the socket is user %d's, its container has the users from %d on", uid, c.GetFirstId()))
	}
	return nil
}

// ownAddress says whether an address is one of this machine's.
func ownAddress(ip netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, one := range all {
		if p, err := netip.ParsePrefix(one.String()); err == nil && p.Addr() == ip {
			return true
		}
	}
	return false
}

// maxSockets bounds how much of the kernel's list of sockets is read.
const maxSockets = 32 << 20 // bytes

// socketUser reads whose the other end of a connection within this machine is.
func socketUser(from, to netip.AddrPort) (uint32, error) {
	for _, list := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		raw, err := readBounded(list, maxSockets)
		if err != nil {
			return 0, err
		}
		if uid, ok := userOf(raw, from, to); ok {
			return uid, nil
		}
	}
	return 0, fmt.Errorf("no connection from %s to %s is open on this machine", from, to)
}

func readBounded(name string, most int) ([]byte, error) {
	raw, err := os.ReadFile(name)
	if err == nil && len(raw) > most {
		err = fmt.Errorf("%s has %d bytes, at most %d are read", name, len(raw), most)
	}
	return raw, err
}

// userOf finds a socket by its own and its peer's address in a list as the kernel writes it:
// number, local and remote address in hexadecimal, state, queues, timer, retransmits, user.
func userOf(list []byte, local, remote netip.AddrPort) (uint32, bool) {
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		if len(f) < 8 || !sameAddress(f[1], local) || !sameAddress(f[2], remote) {
			continue
		}
		uid, err := strconv.ParseUint(f[7], 10, 32)
		return uint32(uid), err == nil
	}
	return 0, false
}

// sameAddress compares an address as the kernel writes it: words of four bytes, each in the
// machine's order, which is little-endian on all that this runs on.
func sameAddress(text string, want netip.AddrPort) bool {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || portErr != nil || uint16(n) != want.Port() || (len(raw) != 4 && len(raw) != 16) {
		return false
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	ip, _ := netip.AddrFromSlice(raw)
	return ip.Unmap() == want.Addr().Unmap()
}
