# What people run here. `make help` lists it. Needs git, gcc, make and Rust; `make test` fetches the rest where it can.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Outside the clone, so that clones and CI share what was built and fetched. Safe to delete at any time.
FOREWARM_CACHE ?= $(HOME)/.cache/forewarm
CARGO_TARGET_DIR ?= $(FOREWARM_CACHE)/target
export FOREWARM_CACHE CARGO_TARGET_DIR

# librdkafka's build asks for a C++ compiler, and uses it only for a C++ library that nothing here links. Without one, it is
# told to leave that library out.
ifeq (,$(shell command -v c++ || command -v g++ || command -v clang++))
export CXX := gcc
export GNUMAKEFLAGS := LIBSUBDIRS=src
endif

# Security to the brokers needs OpenSSL's headers (libssl-dev); everything else does without.
FEATURES := $(shell scripts/features)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## build, then show it: the same load with and without pre-triggers
	@"$(CARGO_TARGET_DIR)/release/forewarm" demo

.PHONY: build
build: ## build the release binary; with TLS and SCRAM where OpenSSL's headers are there
	cargo build --release --locked $(FEATURES)

.PHONY: test
test: deps ## every test: Rust's, with a real Kafka, and end to end with a Python client
	@scripts/test all

.PHONY: chaos
chaos: deps ## nodes killed and hung, three brokers killed, frozen and moved, one broker hung ten times; then the accounts
	@scripts/test chaos

.PHONY: stops
stops: deps ## of that, the only broker hung ten times, under both modes of delivery and both group protocols
	@scripts/test chaos stops

.PHONY: outages
outages: deps ## of that, the three brokers killed, frozen, restarted and moved
	@scripts/test chaos outages

.PHONY: hostile
hostile: deps ## what one function, definition or message does to others that share its node; scripts/test hostile [ROW...]
	@scripts/test hostile

.PHONY: e2e
e2e: deps build ## scenarios against a real Kafka: all of them, or SCENARIO="crash redrive"
	@python=$$(scripts/venv) && scripts/kafka run -- "$$python" tests/e2e/run.py \
	    --forewarm "$(CARGO_TARGET_DIR)/release/forewarm" $(SCENARIO)

.PHONY: list
list: deps ## the names of the scenarios, each with what it shows
	@python=$$(scripts/venv) && "$$python" tests/e2e/run.py --list

.PHONY: simulation
simulation: ## the seeded simulation: 10,000 seeds; FOREWARM_SIMULATION_SEED=N tells one
	cargo test --release --locked --no-default-features --test simulation -- --nocapture

.PHONY: test-core
test-core: ## the tests of the pure core alone, which need neither librdkafka nor Wasmtime
	@scripts/test core

.PHONY: deps
deps: ## what the tests need besides Rust: Java, Maven, Python; installed where run as root on Debian or Ubuntu
	@scripts/deps

.PHONY: kafka
kafka: ## a real Kafka for a shell: stop it by leaving the shell; with BROKERS=3 a cluster of three
	scripts/kafka run --brokers $(or $(BROKERS),1) -- "$${SHELL:-/bin/bash}"

.PHONY: fmt
fmt: ## format the Rust code
	cargo fmt

.PHONY: clippy
clippy: ## Rust's lints, as strict as in CI
	cargo clippy --release --locked --all-targets $(FEATURES) -- -D warnings

.PHONY: deny
deny: ## licences, sources and known vulnerabilities of crates, where cargo-deny is installed
	@scripts/deny

.PHONY: ci
ci: ## what CI runs
	.ci/run
