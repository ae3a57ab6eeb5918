package cluster

// fullFile uses the whole vocabulary, but for what this version refuses.
const fullFile = `apiVersion: v1
cluster: rack7
version: 1.4.2
revision: 12
masters: { count: 3, wait: 40s }
adopt: { wait: 5m }
raft: { heartbeat: 300ms, stall: 3s }
agents: { grace: 30s }
api: { plaintext: [10.7.0.0/24], anonymous: reader, domain: rack7.example, acls: { permissive: true, register_frameworks: [{ principals: { values: [marathon] }, roles: { values: [web, web/%] } }, { principals: { values: [marathon] }, roles: { type: NONE } }] }, rateLimits: { limits: [{ principal: marathon, qps: 50, capacity: 200 }], aggregate_default_qps: 100 } }
zookeeper: { path: /rack7/mesos }
trust: medium
provision:
  on: [lith]
  interface: eno1
  dhcp: server
  range: 10.7.0.100-10.7.0.200
  unknown: hold
  boot: [pxe-uefi, pxe-bios, http]
defaults:
  mode: ram
  console: auto
  kernelArgs: []
  time: { servers: [dhcp, pool.ntp.org], wait: 20s }
  watchdog: 60s
  kexec: off
  network:
    lan: { match: { link: any-up }, dhcp: true }
  disks:
    data: { match: { minSize: 100GB, rotational: false }, use: agent-work, fs: ext4, wipe: if-empty }
  reserve: { cpus: 0.2, mem: 256MB }
  ramStore: 30%
  resources: auto
  attributes: { site: fra, floor: 1.10 }
  logs: { forward: "tcp://10.7.0.9:6514" }
registries:
  mirrors: { docker.io: ["http://10.7.0.9:5000"] }
  offline: false
secrets: cluster.secrets.yaml
update:
  slots: ab
  order: [canary, agents, masters]
  parallel: 1
  drain: 10m
  healthy: { agentRegistered: true, raftCaughtUp: true, for: 60s, within: 5m }
  rollback: auto
  window: "Sat 02:00-05:00 Europe/Berlin"
groups:
  gpu: { region: fra, oversubscribe: { cpus: 2 }, attributes: { gpu: "a100" }, kernelArgs: [hugepagesz=1G, hugepages=16] }
nodes:
  - name: m1
    match: { mac: 52:54:00:00:00:01 }
    role: master
    zone: a
    network:
      lan:
        match: { mac: "52:54:00:00:00:01" }
        address: 10.7.0.11/24
        gateway: 10.7.0.1
        dns: [10.7.0.1]
  - mac: 52:54:00:00:00:02
    zone: b
  - name: w[01-03]
    match: { serial: "7CE1[01-03]X" }
    zone: c
    groups: [gpu]
    network:
      lan: { address: "10.7.0.[21-23]/24", gateway: 10.7.0.1, mtu: 9000 }
    disks:
      data: { match: { wwid: "eui.0025" }, use: agent-work, wipe: always, confirm: "S4ABC123" }
networks: { tasks: { pool: 10.96.0.0/12 }, storage: { pool: 10.40.0.0/24, start: 11 } }
tasks: { image: base, hostNetworkRoles: [infra], hostPaths: [/srv/data], report: container }
modules: late
allocation: { roleSorter: random, frameworkSorter: drf, fairSharingExcluded: [gpus] }
`

// smallFile is the smallest useful one.
const smallFile = `apiVersion: v1
cluster: demo
version: 1.0.0
masters: 3
nodes:
  - mac: "52:54:00:00:00:01"
  - mac: 52:54:00:00:00:02
  - mac: 52-54-00-00-00-0A
`
