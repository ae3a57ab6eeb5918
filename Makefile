# Mesolith. `make` alone prints help.
GO ?= go
IMAGE := build/image
GOBIN_TOOLS := $(CURDIR)/build/tools

help: ## this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

tools: ## install what the host lacks: asks on a terminal, once, in one list
	@sh image/setup.sh

build: tools programs ## lith, clusterd and isolated for this host, into bin/

image: build ## kernel and initramfs into build/image
	bin/lith image build -o $(IMAGE)

demo: image ## three machines in QEMU with a batch and a web service on them
	bin/lith up --demo

unit: ## the tests that need no virtual machine
	$(GO) vet ./...
	$(GO) test ./...

test: image lint rest-tests ## the tests, unit and VM, in 25 minutes; the Mesos API's long ones are test-mesos
	$(MAKE) --no-print-directory -j3 vm-tests image-tests cluster-tests

# What programs that nobody here wrote do, and what the API promises of containers.
MESOS_PROCESSES := ^Test(Strangers|MesosGo|ZooKeeper|Pods|Dev(Checks|Nested|Session|Terminal|Attach))
MESOS_MACHINES := ^Test(VolumesOutliveTheirTasks|DrainedNode|Checks|ExecutorOfAStranger|Pod|SessionInAContainer)$$
test-mesos: image ## the rest of the tests of the Mesos API: programs of others, containers on nodes
	$(GO) test -run '$(MESOS_PROCESSES)' ./clusterd
	$(GO) test -tags vm -count=1 -timeout 30m -v -run '$(MESOS_MACHINES)' ./qemu-tests

test-all: image unit ## the long ones too: births searched and 2,600,000 walks through them, builds compared in every way
	$(GO) test -count=1 -timeout 120m -run 'Walks|EveryOrder' ./clusterd/discovery/birth -v -walks 50000 -small-walks 600000 -long-orders
	$(GO) test -count=1 -timeout 60m -run ChainOfUpdates ./clusterd/leader -chains 3000
	$(GO) test -count=1 -timeout 120m ./clusterd/sim -sim.lives 5 -sim.time 20m -sim.agents 1000
	$(GO) test -tags vm,long -count=1 -timeout 150m -v ./qemu-tests/... ./image/...

bench: image ## the figures of speed and size, in one table
	$(GO) test -tags vm,bench -count=1 -timeout 60m -run '^TestBench' -v ./qemu-tests ./clusterd ./clusterd/sim ./clusterd/alloc

generate: build/tools/protoc-gen-go ## Go code from the .proto files (needs protobuf-compiler)
	PATH="$(GOBIN_TOOLS):$$PATH" protoc --go_out=. --go_opt=module=github.com/mesolith/mesolith internal/wire/*/*.proto
	PATH="$(GOBIN_TOOLS):$$PATH" $(GO) generate ./...

lint: build/tools/staticcheck build/tools/gofumpt ## vet, staticcheck and the one way to format
	$(GO) vet ./...
	build/tools/staticcheck ./...
	@found=$$(git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs build/tools/gofumpt -l); \
	if [ -n "$$found" ]; then echo "format these with build/tools/gofumpt -w:"; echo "$$found"; exit 1; fi

clean: ## remove what was built; the cache of packages stays
	rm -rf bin build/image build/qemu build/qemu-tests build/programs build/tools

# Not listed by help: the parts of the above. Only a package that is tested alone shows
# its lines as they come. Clusters of processes wait more than they work: they go beside
# the machines.
rest-tests:
	$(GO) test $$($(GO) list ./... | grep -v '/clusterd$$')
cluster-tests:
	$(GO) test -skip '$(MESOS_PROCESSES)' ./clusterd
vm-tests:
	$(GO) test -tags vm -count=1 -parallel 3 -timeout 60m -v -skip '$(MESOS_MACHINES)' ./qemu-tests
image-tests:
	nice $(GO) test -tags vm -count=1 -timeout 30m $$($(GO) list -tags vm ./qemu-tests/... | grep -v '/qemu-tests$$') ./image
programs:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -o bin/ ./cmd/lith ./clusterd
	CGO_ENABLED=1 $(GO) build -trimpath -buildvcs=false -tags osusergo,netgo,runc_nocriu,seccomp \
		-ldflags '-linkmode external -extldflags "-static"' -o bin/isolated ./isolation

build/tools/protoc-gen-go:
	cd tools && $(GO) build -o $(GOBIN_TOOLS)/ google.golang.org/protobuf/cmd/protoc-gen-go
build/tools/staticcheck:
	cd tools && $(GO) build -o $(GOBIN_TOOLS)/ honnef.co/go/tools/cmd/staticcheck
build/tools/gofumpt:
	cd tools && $(GO) build -o $(GOBIN_TOOLS)/ mvdan.cc/gofumpt

.PHONY: help tools build image demo unit rest-tests cluster-tests vm-tests image-tests test test-mesos test-all bench generate lint clean programs
.DEFAULT_GOAL := help
