package lan

import (
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/net/link"
)

// Nics lists the machine's network cards for its inventory.
func (l *Lan) Nics() ([]*noded.Nic, error) {
	have, err := link.Observe()
	if err != nil {
		return nil, err
	}
	var out []*noded.Nic
	for _, c := range have {
		if !c.Physical {
			continue
		}
		nic := &noded.Nic{Name: c.Name, Mac: c.MAC, Driver: c.Driver, Pci: c.PCI, Carrier: c.Carrier, SpeedMbps: c.SpeedMbps}
		for _, a := range c.Addresses {
			nic.Addresses = append(nic.Addresses, a.String())
		}
		out = append(out, nic)
	}
	return out, nil
}
