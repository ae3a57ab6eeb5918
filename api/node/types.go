// Package node is the machine's own API on port 5053 of every node: what it is, its
// logs, and its power button. It answers also when the cluster manager does not.
//
// Client calls it; the types are what travels as JSON. Every call needs an operator's
// certificate: reading needs any role, power needs operator or admin, signals admin.
//
// Invariant: fields are only ever added. It knows nothing of tasks and frameworks, which
// are the cluster's API on ports 5050 and 5051.
package node

import "time"

// Port is where the node API listens.
const Port = 5053

// Health says in one look how the machine is.
type Health struct {
	Name        string    `json:"name,omitempty"` // empty: no node document yet
	Cluster     string    `json:"cluster,omitempty"`
	Source      string    `json:"source,omitempty"` // where the node document came from
	Waiting     []string  `json:"waiting,omitempty"`
	Addresses   []string  `json:"addresses,omitempty"`
	Incarnation string    `json:"incarnation,omitempty"`
	BootID      string    `json:"bootID"`
	Version     string    `json:"version,omitempty"` // of the image
	Kernel      string    `json:"kernel"`
	Time        time.Time `json:"time"`
	Clock       Clock     `json:"clock"`
	// LastEnd says how the boot before this one ended, as far as this machine can know.
	LastEnd string `json:"lastEnd,omitempty"`
	// CertificateEnds is zero until the node has a certificate.
	CertificateEnds time.Time     `json:"certificateEnds,omitzero"`
	Status          ClusterStatus `json:"status"` // as clusterd last said
}

// Clock says whether the time is known.
type Clock struct {
	Synced   bool          `json:"synced"`
	Source   string        `json:"source,omitempty"`
	OffsetNS time.Duration `json:"offsetNS"`
}

// ClusterStatus is the cluster as this node's cluster manager sees it.
type ClusterStatus struct {
	Role         string `json:"role,omitempty"` // agent, master, leader
	Leader       string `json:"leader,omitempty"`
	Term         uint64 `json:"term,omitempty"`
	Height       uint64 `json:"height,omitempty"`
	Summary      string `json:"summary,omitempty"`
	AgentID      string `json:"agentID,omitempty"`
	TasksRunning uint32 `json:"tasksRunning,omitempty"`
	// Votes: a master that has a vote, as far as it knows. One that has booted anew has
	// none until it has caught up, and counts as lost until then.
	Votes bool `json:"votes,omitempty"`
	// Held are machines that answer under a master's name and wait for an operator.
	Held []Held `json:"held,omitempty"`
}

// Held is another machine under a master's name than the one that the cluster knows. It
// has no vote until an operator admits it.
type Held struct {
	Master   string `json:"master"`
	Hardware string `json:"hardware"` // its hash; empty: it says nothing of itself
	Known    string `json:"known"`    // hash of the hardware that the cluster knows
}

// Inventory is what the machine is made of.
type Inventory struct {
	Kernel      string `json:"kernel"`
	Vendor      string `json:"vendor,omitempty"`
	Product     string `json:"product,omitempty"`
	Serial      string `json:"serial,omitempty"`
	UUID        string `json:"uuid,omitempty"`
	CPUs        uint32 `json:"cpus"`
	MemoryBytes uint64 `json:"memoryBytes"`
	NICs        []NIC  `json:"nics,omitempty"`
	Disks       []Disk `json:"disks,omitempty"`
	GPUs        []GPU  `json:"gpus,omitempty"`
}

// NIC is a network card.
type NIC struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	Driver    string   `json:"driver,omitempty"`
	PCI       string   `json:"pci,omitempty"`
	Carrier   bool     `json:"carrier"`
	SpeedMbps uint64   `json:"speedMbps,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
}

// Disk is a block device as a whole.
type Disk struct {
	Name       string `json:"name"`
	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	WWID       string `json:"wwid,omitempty"`
	Bytes      uint64 `json:"bytes"`
	Rotational bool   `json:"rotational"`
	Removable  bool   `json:"removable"`
}

// GPU is a display or compute device.
type GPU struct {
	PCI      string `json:"pci"`
	VendorID string `json:"vendorID"`
	DeviceID string `json:"deviceID"`
	Vendor   string `json:"vendor,omitempty"`
	Model    string `json:"model,omitempty"`
	Driver   string `json:"driver,omitempty"`
}

// Service is one of the programs that PID 1 supervises.
type Service struct {
	Name     string    `json:"name"`
	State    string    `json:"state"` // starting, running, backoff, stopped
	PID      int32     `json:"pid"`
	Restarts uint32    `json:"restarts"`
	LastExit string    `json:"lastExit,omitempty"`
	Since    time.Time `json:"since"`
}

// Memory is what the machine's memory goes to, in bytes. The kernel's own belongs to no
// process: it is in TotalBytes only.
type Memory struct {
	TotalBytes     uint64        `json:"totalBytes"`
	AvailableBytes uint64        `json:"availableBytes"` // that a new program could have
	Groups         []MemoryGroup `json:"groups"`
}

// MemoryGroup is what the processes of one program hold: init, noded, clusterd, isolated
// (with the plugins that it has at work), store (pulls of images), or tasks, which are
// the processes in all containers.
type MemoryGroup struct {
	Name      string `json:"name"`
	Processes int    `json:"processes"`
	// PSSBytes counts a page that n processes share as 1/n.
	PSSBytes       uint64 `json:"pssBytes"`
	AnonymousBytes uint64 `json:"anonymousBytes"` // the part of it that no file is behind
	ResidentBytes  uint64 `json:"residentBytes"`  // with every shared page counted in full

	KeptBytes uint64 `json:"keptBytes,omitempty"` // that no other group's need takes from it
	MaxBytes  uint64 `json:"maxBytes,omitempty"`  // that it may have; 0: no limit of its own
	OOMKills  uint64 `json:"oomKills,omitempty"`  // processes that the kernel ended for want of memory
	// LowestScore and HighestScore are oom_score_adj of its processes: who has the higher
	// one is ended first when the whole machine is short.
	LowestScore  int `json:"lowestScore"`
	HighestScore int `json:"highestScore"`
}

// Failure is the body of every answer that is not 2xx.
type Failure struct {
	Error string `json:"error"`
}
