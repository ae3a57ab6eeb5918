package acl

import "slices"

// Action is what somebody wants to do; the numbers are those of Mesos.
type Action int

// The actions.
const (
	RegisterFramework            Action = 1
	RunTask                      Action = 2
	TeardownFramework            Action = 3
	ReserveResources             Action = 4
	UnreserveResources           Action = 5
	CreateVolume                 Action = 6
	DestroyVolume                Action = 7
	GetEndpoint                  Action = 8
	ViewRole                     Action = 9
	UpdateWeight                 Action = 10
	GetQuota                     Action = 11
	UpdateQuotaOld               Action = 12 // by SET_QUOTA and REMOVE_QUOTA
	ViewFramework                Action = 13
	ViewTask                     Action = 14
	ViewExecutor                 Action = 15
	AccessSandbox                Action = 16
	AccessMesosLog               Action = 17
	ViewFlags                    Action = 18
	LaunchNestedContainer        Action = 19
	KillNestedContainer          Action = 20
	WaitNestedContainer          Action = 21
	LaunchNestedContainerSession Action = 22
	AttachContainerInput         Action = 23
	AttachContainerOutput        Action = 24
	ViewContainer                Action = 25
	SetLogLevel                  Action = 26
	RemoveNestedContainer        Action = 27
	RegisterAgent                Action = 28
	UpdateMaintenanceSchedule    Action = 29
	GetMaintenanceSchedule       Action = 30
	StartMaintenance             Action = 31
	StopMaintenance              Action = 32
	GetMaintenanceStatus         Action = 33
	MarkAgentGone                Action = 34
	LaunchStandaloneContainer    Action = 35
	KillStandaloneContainer      Action = 36
	WaitStandaloneContainer      Action = 37
	RemoveStandaloneContainer    Action = 38
	ModifyResourceProviderConfig Action = 39
	ViewStandaloneContainer      Action = 40
	PruneImages                  Action = 41
	ResizeVolume                 Action = 42
	CreateBlockDisk              Action = 43
	DestroyBlockDisk             Action = 44
	CreateMountDisk              Action = 45
	DestroyMountDisk             Action = 46
	ViewResourceProvider         Action = 47
	MarkResourceProviderGone     Action = 48
	DestroyRawDisk               Action = 49
	UpdateQuota                  Action = 50
	DrainAgent                   Action = 51
	DeactivateAgent              Action = 52
	ReactivateAgent              Action = 53
)

// MaxAction is the highest number of an action.
const MaxAction = ReactivateAgent

// kind is what the objects of an action are.
type kind int

const (
	named kind = iota // users, principals: names that are equal or not
	roles             // names in a tree; "a/%" is all that is below a
	paths             // endpoints
	whole             // one object without a name: ANY or NONE
)

// key is one key of the ACLs: its rules say who may do one thing.
type key struct {
	name    string
	objects string // the key of the objects in a rule
	kind    kind
}

// keyParent and keySession are the second halves of two actions: under whose container a
// nested one is launched.
const (
	keyParent        = "launch_nested_containers_under_parent_with_user"
	keySessionParent = "launch_nested_container_sessions_under_parent_with_user"
)

// table has a row for each action: its name and the key that its rules are under.
var table = map[Action]struct {
	name string
	key  key
}{
	RegisterFramework:            {"REGISTER_FRAMEWORK", key{"register_frameworks", "roles", roles}},
	RunTask:                      {"RUN_TASK", key{"run_tasks", "users", named}},
	TeardownFramework:            {"TEARDOWN_FRAMEWORK", key{"teardown_frameworks", "framework_principals", named}},
	ReserveResources:             {"RESERVE_RESOURCES", key{"reserve_resources", "roles", roles}},
	UnreserveResources:           {"UNRESERVE_RESOURCES", key{"unreserve_resources", "reserver_principals", named}},
	CreateVolume:                 {"CREATE_VOLUME", key{"create_volumes", "roles", roles}},
	DestroyVolume:                {"DESTROY_VOLUME", key{"destroy_volumes", "creator_principals", named}},
	GetEndpoint:                  {"GET_ENDPOINT_WITH_PATH", key{"get_endpoints", "paths", paths}},
	ViewRole:                     {"VIEW_ROLE", key{"view_roles", "roles", roles}},
	UpdateWeight:                 {"UPDATE_WEIGHT", key{"update_weights", "roles", roles}},
	GetQuota:                     {"GET_QUOTA", key{"get_quotas", "roles", roles}},
	UpdateQuotaOld:               {"UPDATE_QUOTA", key{"update_quotas", "roles", roles}},
	ViewFramework:                {"VIEW_FRAMEWORK", key{"view_frameworks", "users", named}},
	ViewTask:                     {"VIEW_TASK", key{"view_tasks", "users", named}},
	ViewExecutor:                 {"VIEW_EXECUTOR", key{"view_executors", "users", named}},
	AccessSandbox:                {"ACCESS_SANDBOX", key{"access_sandboxes", "users", named}},
	AccessMesosLog:               {"ACCESS_MESOS_LOG", key{"access_mesos_logs", "logs", whole}},
	ViewFlags:                    {"VIEW_FLAGS", key{"view_flags", "flags", whole}},
	LaunchNestedContainer:        {"LAUNCH_NESTED_CONTAINER", key{"launch_nested_containers_as_user", "users", named}},
	KillNestedContainer:          {"KILL_NESTED_CONTAINER", key{"kill_nested_containers", "users", named}},
	WaitNestedContainer:          {"WAIT_NESTED_CONTAINER", key{"wait_nested_containers", "users", named}},
	LaunchNestedContainerSession: {"LAUNCH_NESTED_CONTAINER_SESSION", key{"launch_nested_container_sessions_as_user", "users", named}},
	AttachContainerInput:         {"ATTACH_CONTAINER_INPUT", key{"attach_containers_input", "users", named}},
	AttachContainerOutput:        {"ATTACH_CONTAINER_OUTPUT", key{"attach_containers_output", "users", named}},
	ViewContainer:                {"VIEW_CONTAINER", key{"view_containers", "users", named}},
	SetLogLevel:                  {"SET_LOG_LEVEL", key{"set_log_level", "level", whole}},
	RemoveNestedContainer:        {"REMOVE_NESTED_CONTAINER", key{"remove_nested_containers", "users", named}},
	RegisterAgent:                {"REGISTER_AGENT", key{"register_agents", "agents", whole}},
	UpdateMaintenanceSchedule:    {"UPDATE_MAINTENANCE_SCHEDULE", key{"update_maintenance_schedules", "machines", whole}},
	GetMaintenanceSchedule:       {"GET_MAINTENANCE_SCHEDULE", key{"get_maintenance_schedules", "machines", whole}},
	StartMaintenance:             {"START_MAINTENANCE", key{"start_maintenances", "machines", whole}},
	StopMaintenance:              {"STOP_MAINTENANCE", key{"stop_maintenances", "machines", whole}},
	GetMaintenanceStatus:         {"GET_MAINTENANCE_STATUS", key{"get_maintenance_statuses", "machines", whole}},
	MarkAgentGone:                {"MARK_AGENT_GONE", key{"mark_agents_gone", "agents", whole}},
	LaunchStandaloneContainer:    {"LAUNCH_STANDALONE_CONTAINER", key{"launch_standalone_containers", "users", whole}},
	KillStandaloneContainer:      {"KILL_STANDALONE_CONTAINER", key{"kill_standalone_containers", "users", whole}},
	WaitStandaloneContainer:      {"WAIT_STANDALONE_CONTAINER", key{"wait_standalone_containers", "users", whole}},
	RemoveStandaloneContainer:    {"REMOVE_STANDALONE_CONTAINER", key{"remove_standalone_containers", "users", whole}},
	ModifyResourceProviderConfig: {"MODIFY_RESOURCE_PROVIDER_CONFIG", key{"modify_resource_provider_configs", "resource_providers", whole}},
	ViewStandaloneContainer:      {"VIEW_STANDALONE_CONTAINER", key{"view_standalone_containers", "users", whole}},
	PruneImages:                  {"PRUNE_IMAGES", key{"prune_images", "images", whole}},
	ResizeVolume:                 {"RESIZE_VOLUME", key{"resize_volumes", "roles", roles}},
	CreateBlockDisk:              {"CREATE_BLOCK_DISK", key{"create_block_disks", "roles", roles}},
	DestroyBlockDisk:             {"DESTROY_BLOCK_DISK", key{"destroy_block_disks", "roles", roles}},
	CreateMountDisk:              {"CREATE_MOUNT_DISK", key{"create_mount_disks", "roles", roles}},
	DestroyMountDisk:             {"DESTROY_MOUNT_DISK", key{"destroy_mount_disks", "roles", roles}},
	ViewResourceProvider:         {"VIEW_RESOURCE_PROVIDER", key{"view_resource_providers", "resource_providers", whole}},
	MarkResourceProviderGone:     {"MARK_RESOURCE_PROVIDER_GONE", key{"mark_resource_providers_gone", "resource_providers", whole}},
	DestroyRawDisk:               {"DESTROY_RAW_DISK", key{"destroy_raw_disks", "roles", roles}},
	UpdateQuota:                  {"UPDATE_QUOTA_WITH_CONFIG", key{"update_quotas", "roles", roles}},
	DrainAgent:                   {"DRAIN_AGENT", key{"drain_agents", "agents", whole}},
	DeactivateAgent:              {"DEACTIVATE_AGENT", key{"deactivate_agents", "agents", whole}},
	ReactivateAgent:              {"REACTIVATE_AGENT", key{"reactivate_agents", "agents", whole}},
}

// String is the action's name.
func (a Action) String() string {
	if row, ok := table[a]; ok {
		return row.name
	}
	return "UNKNOWN"
}

// Key is the key of the ACLs that the action's rules are under, for sentences that say
// what to change; empty: there is no such action.
func (a Action) Key() string { return table[a].key.name }

// underParent is the key of an action's second half; empty: it has none.
func underParent(a Action) string {
	switch a {
	case LaunchNestedContainer:
		return keyParent
	case LaunchNestedContainerSession:
		return keySessionParent
	}
	return ""
}

// keys are all keys by name.
func keys() map[string]key {
	out := map[string]key{
		keyParent:        {keyParent, "users", named},
		keySessionParent: {keySessionParent, "users", named},
	}
	for _, row := range table {
		out[row.key.name] = row.key
	}
	return out
}

// Endpoints are the paths that get_endpoints may name: those that show what no other
// action is about.
var Endpoints = []string{"/containerizer/debug", "/containers", "/files/debug", "/logging/toggle", "/metrics/snapshot", "/monitor/statistics"}

// IsEndpoint says whether get_endpoints is asked about a path.
func IsEndpoint(path string) bool { return slices.Contains(Endpoints, path) }
