// Package mesosv1 is the Mesos v1 schema as Go types: the vocabulary in this package, the
// calls, events and responses of each face (scheduler, executor, master, agent and the
// rest) in the packages below it. recordio frames such messages on streams, mesosjson
// gives them the JSON form that Mesos speaks.
//
// The types are generated from the .proto files beside them and are proto2: unset and zero
// are different things, and enums are closed (an unknown value lands in the unknown
// fields). Numbers and names are those of Mesos 1.11, its last; nothing may be added that
// 1.11 does not have, since clients read strictly. schema_test.go compares every
// descriptor with testdata/schema.txt.
//
// Nothing here validates more than the schema says; who receives a message does.
package mesosv1

// The .proto files import each other from api/ and google/protobuf/duration.proto, which
// comes with protoc.
//go:generate sh -c "cd ../../.. && protoc -I api --go_out=. --go_opt=module=github.com/mesolith/mesolith $(cd api && find mesos -name '*.proto')"
