package modules

// Boot are the modules that init loads by name, in this order, because no
// device asks for them and the node has no modprobe: what the kernel would
// load by itself at first use fails there with a bare "no such file". They
// lie in the image unpacked, with all they need. Each costs 20 to 150 ms of
// every boot under emulation: what only some nodes use belongs below.
var Boot = []string{
	"qemu_fw_cfg", // the node document on virtual machines
	"efivarfs",
	"overlay", // before the first container, or libcontainer copies itself
	"veth", "bridge",
	"nf_conntrack", "nf_nat", "nf_conntrack_netlink",
	"nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_connlimit",
	"nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6",
	"vsock",
}

// Virtual are unpacked too: the devices of virtual machines, found by
// modules.alias, on the way of every test and of lith up.
var Virtual = []string{
	"virtio_net", "virtio_blk", "virtio_scsi", "virtio_rng", "virtio_mmio",
	"vmw_vsock_virtio_transport",
	"i6300esb", "softdog", "button",
}

// Required stay packed until a device or init asks for them; a kernel
// without them cannot serve the node.
var Required = []string{
	// disks and buses
	"nvme", "ahci", "ata_piix", "sd_mod", "sr_mod", "usb_storage", "uas", "xhci_pci", "ehci_pci",
	// network cards
	"e1000", "e1000e", "igb", "igc", "ixgbe", "i40e", "ice",
	"mlx4_core", "mlx4_en", "mlx5_core", "bnxt_en", "tg3", "r8169", "vmxnet3",
	// file systems
	"ext4", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "squashfs", "loop",
	// device mapper
	"dm_mod", "dm_crypt", "dm_verity", "xts", "aesni_intel",
	// networks of tasks and nodes, and what tests do to them
	"vxlan", "8021q", "bonding", "wireguard", "macvlan", "ipvlan", "ifb", "vsock_loopback",
	"sch_netem", "sch_tbf", "sch_ingress", "act_mirred", "cls_u32",
	"nft_redir", "nft_reject", "nft_reject_inet", "nft_log", "nf_log_syslog",
	"nft_limit", "nft_quota", "nft_hash", "nft_numgen",
	// watchdogs
	"iTCO_wdt", "sp5100_tco", "wdat_wdt", "hpwdt",
}

// Optional are taken where the kernel has them: distributions differ.
var Optional = []string{
	"mpt3sas", "megaraid_sas", "smartpqi", "hpsa", "vmw_pvscsi", "vmd",
	"ipmi_si", "ipmi_watchdog", "efi_pstore", "ramoops", "acpi_cpufreq", "realtek",
}

// Together are soft dependencies of our own: what is of use only with the
// module named first. The faster ciphers of dm_crypt would otherwise be loaded
// on every machine, because the processor itself asks for them, and take a
// quarter of a second of each boot under emulation.
var Together = map[string][]string{
	"dm_crypt": {"xts", "aesni_intel"},
}
