// Package lan is the wire between the virtual machines of one cluster: an Ethernet switch
// in Go that QEMU's `-netdev stream` plugs into, and the host's way into that LAN.
//
// The switch learns where addresses live, floods what it does not know, and can be told to
// cut, lose or delay the frames of any pair of ports, each direction by itself. On one of
// its ports sits a TCP/IP stack in user space (gVisor's): the LAN's gateway, DHCP and DNS
// server, and the host's door to the guests (Dial, Listen, Forward, Socks). Nothing of the
// host's network is changed and no privilege is needed.
//
// Invariant: a frame leaves the switch on the ports that it is addressed to and on no
// other, and only if no fault set for that direction says otherwise; the frames that a
// fault has hit are counted, so that a test can show that its fault was real. With NAT
// off, which is the default, nothing leaves the LAN for the host's networks.
//
// It starts no machine (package vm does) and knows no cluster (package cluster does).
package lan
