# What can be done here. `make up` and `make test` need root, Rust and Go, and fetch everything else by themselves;
# `make test-quick`, `make resolver` and `make lint` need Rust alone, `make images` Rust and the package nftables.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# The name of the lab that `make up` starts; labs of different names live side by side.
LAB ?= demo
CRATES := --workspace --locked
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dnstier/tools
FUZZ_TARGETS := client_packet upstream_answer cache_operations exchange alias_continuation
FUZZ_SECONDS ?= 60
# Where the fuzzer begins; 0 for somewhere else each time.
FUZZ_SEED ?= 0
CARGO_DENY := $(TOOLS)/cargo-deny-0.20.2

# Always the whole workspace, so that every command compiles the dependencies with the same features, and so once.
host = $(shell rustc -vV | sed -n 's/^host: //p')
lab_program = $(or $(CARGO_TARGET_DIR),target)/$(host)/debug/lab
lab = $(CARGO) build $(CRATES) --bin lab && $(lab_program)
# The names that tests give to theirs.
TEST_LABS := one other kept killed tests
# Test programs that use a cluster, and those that need root otherwise.
CLUSTER_TESTS := cluster rollouts
ROOT_TESTS := agent lab provider_limits
# Test programs that wait more than they work: side by side, one of them with more threads than processors.
WAITING_TESTS := agent data_path
# Test programs that start a control plane, and what it consists of.
CONTROL_PLANE_TESTS := faults old_crd scale transitions
CONTROL_PLANE := etcd kube-apiserver kube-controller-manager kube-scheduler kubectl kwok
# What `make test-quick` leaves out: they take the longest, seven seconds and more.
SLOW_TESTS := blackout:: ceiling:: recovery:: memory_stays_near_the_size_of_the_cache
TEST_BINARIES := $(basename $(notdir $(wildcard */tests/*.rs */bench/tests/*.rs))) $(notdir $(patsubst %/main.rs,%,$(wildcard */tests/*/main.rs)))

# A shell command that compiles the programs of a control plane.
control_plane = for program in $(CONTROL_PLANE); do $(lab_program) program $$program; done

# A shell command that installs the packages $(2) where the program $(1) is missing.
install = command -v $(1) >/dev/null || \
  { apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends $(2); }

.PHONY: help
help: ## Show what can be done
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: up
up: require ## Start a cluster of three zones on this machine with a DNS tier in it
	@$(lab) --name $(LAB) up

.PHONY: down
down: require ## Remove it without a trace
	@$(lab) --name $(LAB) down

.PHONY: status
status: require ## Say how it is
	@$(lab) --name $(LAB) status

# Its configuration, and where it listens: for DNS, and for /metrics and /status.
CONFIG ?= examples/config.json
LISTEN ?= 127.0.0.1:5353
HTTP ?= 127.0.0.1:9153
resolver_program = $(or $(CARGO_TARGET_DIR),target)/$(host)/debug/zone-resolver
resolver_dir = $(or $(CARGO_TARGET_DIR),target)/resolver/$(subst :,-,$(LISTEN))

.PHONY: resolver
resolver: ## Run one resolver in the foreground on LISTEN, with the configuration CONFIG
	$(CARGO) build $(CRATES) --bin zone-resolver
	@# The files of a pod's volume: a revision, and its name.
	@mkdir -p $(resolver_dir)
	@cp $(CONFIG) $(resolver_dir)/by-hand.json
	@echo by-hand >$(resolver_dir)/revision
	@echo "$(resolver_program) answers on $(LISTEN), over UDP and TCP: dig @$(subst :, -p ,$(LISTEN)) example.com"
	@echo "Metrics: curl http://$(HTTP)/metrics. Configuration, read again when it changes: $(resolver_dir)/by-hand.json"
	@exec $(resolver_program) run --listen $(LISTEN) --http $(HTTP) --cache-size 16777216 --drain 0s \
	  --config-dir $(resolver_dir) --run-dir $(resolver_dir)

# A folder with the archives of a machine of another architecture; the new archives have the images of both.
WITH ?=

.PHONY: images
images: ## Build the images, as archives in target/images; needs Rust and nft
	@command -v cargo >/dev/null || { echo "Rust is needed: install it from https://rustup.rs."; exit 1; }
	@$(lab) images --release $(if $(WITH),--with $(WITH))

.PHONY: test-quick
test-quick: ## Run the tests that need neither root nor a cluster
	$(CARGO) test $(CRATES) --no-fail-fast --lib --bins \
	  $(addprefix --test ,$(filter-out $(CLUSTER_TESTS) $(ROOT_TESTS) $(CONTROL_PLANE_TESTS),$(TEST_BINARIES))) -- $(addprefix --skip ,$(SLOW_TESTS))

# A test that finds its requirements missing is skipped everywhere but here, where it fails.
.PHONY: test
test: export DNSTIER_TESTS_REQUIRE_ALL := 1
test: require ## Run every test: unit tests, and the whole tier in a cluster of its own
	@# The reader of Frame Streams by the authors of the format.
	@$(call install,fstrm_dump,fstrm-bin)
	@# The agent's tests make network namespaces and packet rules.
	@$(call install,nft,nftables)
	@$(call install,ip,iproute2)
	@# A resolver of others in a forwarding loop. RUNLEVEL says that the machine is coming up: its service is not started.
	@export RUNLEVEL=1; $(call install,unbound,unbound)
	@# Runs the health check for Argo CD, whose Lua is 5.1.
	@$(call install,lua5.1,lua5.1)
	@# Pushes images to registries.
	@$(call install,skopeo,skopeo)
	@# It scrapes the lab, and its promtool checks the pages of metrics.
	@export RUNLEVEL=1; $(call install,prometheus,prometheus)
	$(CARGO) test $(CRATES) --no-run
	@# They wait, too.
	RUST_TEST_THREADS=4 $(CARGO) test $(CRATES) --no-fail-fast --lib --bins
	$(CARGO) test $(CRATES) --no-fail-fast \
	  $(addprefix --test ,$(filter-out $(CLUSTER_TESTS) $(CONTROL_PLANE_TESTS) $(WAITING_TESTS),$(TEST_BINARIES)))
	$(MAKE) --no-print-directory --jobs --keep-going --output-sync=target $(WAITING_TESTS:%=test-%)
	@# Each of these has a control plane of its own, and waits more than it works, too.
	$(control_plane)
	$(MAKE) --no-print-directory --jobs --keep-going --output-sync=target $(CONTROL_PLANE_TESTS:%=test-%)
	@# They share one lab, so one after the other. It stays up, for the next time; `make clean-tests` removes it.
	$(CARGO) test $(CRATES) --no-fail-fast $(addprefix --test ,$(CLUSTER_TESTS)) -- --test-threads=1

.PHONY: $(CONTROL_PLANE_TESTS:%=test-%) $(WAITING_TESTS:%=test-%)
$(CONTROL_PLANE_TESTS:%=test-%) $(WAITING_TESTS:%=test-%): test-%:
	$(CARGO) test $(CRATES) --no-fail-fast --test $*

test-data_path: export RUST_TEST_THREADS := 6

.PHONY: test-long
test-long: export DNSTIER_TESTS_REQUIRE_ALL := 1
test-long: require ## Run the long forms of tests, one after the other, twelve hours at the most; `make bench-scale` is that of scale
	$(control_plane)
	@# Each of the six stops by itself; its limit, two hours, is for the one that does not.
	timeout 7200 $(CARGO) test --release --locked --package node-cache --lib --test data_path --no-fail-fast -- --ignored \
	  --nocapture --test-threads=1
	timeout 7200 $(CARGO) test --release --locked --package dnstier-operator --lib --no-fail-fast -- --ignored --nocapture
	timeout 7200 $(CARGO) test $(CRATES) --test images -- --ignored --exact --nocapture two_checkouts_build_the_same_images
	@# The operator behind a proxy that fails, at every write.
	timeout 7200 $(CARGO) test $(CRATES) --test faults --no-fail-fast -- --ignored --nocapture
	@# Changes of every field of a DnsTier.
	timeout 7200 $(CARGO) test $(CRATES) --test transitions --no-fail-fast -- --ignored --nocapture
	@# More changes of a configuration on the labs.
	timeout 7200 $(CARGO) test $(CRATES) --no-fail-fast $(addprefix --test ,$(CLUSTER_TESTS)) -- --ignored --nocapture \
	  --test-threads=1

.PHONY: miri
miri: require ## Run what is unsafe under Miri, which needs a nightly compiler
	@cargo +nightly miri --version >/dev/null 2>&1 || \
	  rustup toolchain install nightly --profile minimal --component miri --component rust-src
	MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --locked --package node-cache-sys \
	  --target-dir $(or $(CARGO_TARGET_DIR),target)/miri

# CoreDNS is the lab's; the forwarder around hickory-server has dependencies of its own, and so a target of its own.
bench_hickory = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/hickory
# Cargo keeps what it builds with the profile `bench` where release builds are. The benchmark finds zone-resolver there.
bench_build = $(CARGO) build --locked --profile bench --package node-cache-bench
bench_program = $(or $(CARGO_TARGET_DIR),target)/$(host)/release/node-cache-bench
BENCH_PARTS ?= hits $(if $(ONLY),,misses latency start memory fairness traces readers)
BENCH_PACKAGES := iproute2 linux-perf valgrind unbound dnsdist dnsmasq-base knot-resolver

.PHONY: bench
bench: require ## Measure hits, misses, latency, start, memory, fairness and hit rate beside other resolvers; ONLY="dnsmasq 1000": those hits
	@# Their services are not started: RUNLEVEL says that the machine is coming up.
	apt-get update --quiet=2
	RUNLEVEL=1 apt-get install --quiet=2 --yes --no-install-recommends $(BENCH_PACKAGES)
	$(CARGO) build --locked --release --manifest-path tests/programs/hickory/Cargo.toml --target-dir $(bench_hickory)
	$(CARGO) build $(CRATES) --bin lab
	$(bench_build) --package node-cache --bins
	coredns=$$($(lab_program) program coredns); \
	export BENCH_COREDNS=$$coredns BENCH_HICKORY=$(bench_hickory)/$(host)/release/hickory-forwarder; \
	for part in $(BENCH_PARTS); do \
	  $(bench_program) $$part $(ONLY); \
	done

# Eight minutes and a half of load; a cast that the machine was too slow for runs twice.
.PHONY: replay
replay: require ## Replay a provider's silent limits against casts of resolvers, DnsTier among them; ten minutes
	apt-get update --quiet=2
	RUNLEVEL=1 apt-get install --quiet=2 --yes --no-install-recommends iproute2 nftables unbound dnsdist
	$(CARGO) build $(CRATES) --bin lab
	$(bench_build) --package node-cache --bins
	BENCH_COREDNS=$$($(lab_program) program coredns) timeout 1500 $(bench_program) replay full $(ONLY)

# Numbers of nodes, such as "100 1000".
SIZES ?= 100 1000 5000

.PHONY: bench-scale
bench-scale: require ## Measure the operator with 100, 1,000 and 5,000 nodes; an hour and a half
	$(CARGO) build $(CRATES) --bin lab
	$(control_plane)
	SCALE_NODES="$(SIZES)" timeout 10800 $(CARGO) test --release --locked --package dnstier-operator --test scale -- \
	  --ignored --nocapture

.PHONY: bench-gate
bench-gate: require ## Fail when a hit, a miss or a cache entry takes more instructions or bytes than its limit
	@$(call install,valgrind,valgrind)
	$(bench_build)
	$(bench_program) gate

.PHONY: fuzz
fuzz: fuzz_dir = $(or $(CARGO_TARGET_DIR),target)/fuzz
fuzz: ## Look for packets that break a promise, FUZZ_SECONDS for each target, from FUZZ_SEED on
	@$(call install,c++,g++)
	@# What rustc takes without a nightly. In the place of the flags of .cargo/config.toml: libFuzzer cannot be static.
	RUSTFLAGS="-C passes=sancov-module $(addprefix -C llvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters \
	  pc-table trace-compares)" $(CARGO) build --locked --package dnstier-fuzz --features libfuzzer \
	  $(addprefix --bin ,$(FUZZ_TARGETS)) --profile fuzz --target-dir $(fuzz_dir)
	@# What is new goes to the first folder, which is not checked in.
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p $(fuzz_dir)/corpus/$$target; \
	  echo "== $$target"; \
	  $(fuzz_dir)/$(host)/fuzz/$$target -max_total_time=$(FUZZ_SECONDS) -seed=$(FUZZ_SEED) -max_len=4096 -timeout=10 \
	    -rss_limit_mb=1024 -artifact_prefix=$(fuzz_dir)/$$target- $(fuzz_dir)/corpus/$$target fuzz/corpus/$$target \
	    >$(fuzz_dir)/$$target.log 2>&1 || { tail -n 40 $(fuzz_dir)/$$target.log; exit 1; }; \
	  grep -E 'DONE' $(fuzz_dir)/$$target.log; \
	done

.PHONY: clean-tests
clean-tests: require ## Remove the labs that tests have left
	@$(CARGO) build $(CRATES) --bin lab --quiet
	@for name in $(TEST_LABS); do \
	  if [ -e /var/lib/dnstier-lab/$$name ]; then $(lab_program) --name $$name down; fi; \
	done

.PHONY: lint
lint: fmt-check line-lengths deny ## Check format, lints and dependencies
	$(CARGO) clippy $(CRATES) --all-targets -- -D warnings
	@# No process that parses packets talks to the API server, and the lab stays small.
	@for package in node-cache dnstier-tests; do \
	  tree=$$($(CARGO) tree --locked --package $$package --edges normal,build --prefix none); \
	  if grep -E '^(kube|k8s-openapi)' <<<"$$tree"; then \
	    echo "$$package must not depend on the crates above"; exit 1; \
	  fi; \
	done

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --all -- --check

# rustfmt leaves comments and strings alone.
.PHONY: line-lengths
line-lengths:
	@if LC_ALL=C.UTF-8 grep -rnE --include='*.rs' --exclude-dir=target '^.{121,}' .; then \
	  echo "The lines above are longer than 120 columns: break them."; exit 1; \
	fi

.PHONY: crds
crds: ## Generate the CustomResourceDefinition and the API reference from the Rust types
	$(CARGO) build $(CRATES) --bin crdgen && $(or $(CARGO_TARGET_DIR),target)/$(host)/debug/crdgen

.PHONY: deny
deny: $(CARGO_DENY)/bin/cargo-deny ## Check what the dependencies are, their licenses and where they come from
	$(CARGO_DENY)/bin/cargo-deny --log-level error check bans licenses sources

# To build it without optimization takes less time than it would ever save.
$(CARGO_DENY)/bin/cargo-deny:
	$(CARGO) install --debug --locked --quiet --version 0.20.2 --root $(CARGO_DENY) cargo-deny

.PHONY: require
require:
	@command -v cargo >/dev/null || { echo "Rust is needed to build DnsTier: install it from https://rustup.rs."; exit 1; }
	@command -v go >/dev/null || { echo "Go is needed to build Kubernetes: install it from https://go.dev/dl."; exit 1; }
	@[ "$$(id -u)" = 0 ] || { echo "Network namespaces are made for the cluster, which needs root: run this with sudo."; exit 1; }
