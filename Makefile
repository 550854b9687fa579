# make demo    a primary, two replicas and pgtandem with 200 clients, on this machine; leaves nothing behind
# make check   installs what is missing and runs every test
# make bench   pgtandem beside PgBouncer and a direct connection (BENCH_FLAGS='--quick')
# make systemd pgtandem under a real systemd in a container; as root, or through sudo
# make topology  two nodes, clients and PostgreSQL in network namespaces, keepalived beside; as root, or through sudo
# make nix     what can be known of the Nix files without NixOS
# make scenarios  the scenarios of vm-tests/ in containers; as root, or through sudo (SCENARIOS='ha-failover replication')
# make conformance  PgBouncer's own test suite, and its answers beside ours; as root, or through sudo
# make kernel-tls  the tests that need kernel TLS, restarts among them, in a QEMU guest (part of check)
# make fuzz    fuzzes one parser: TARGET=frame SECONDS=60
.PHONY: demo check bench fuzz kernel-tls systemd topology nix scenarios conformance fmt clippy test doc licences e2e demo-smoke tools
.NOTPARALLEL:

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# rustup's programs are often missing from PATH where no login shell has run.
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
TARGET ?= frame
SECONDS ?= 60

demo:
	@exec demo/run

bench:
	@exec benches/peers $(BENCH_FLAGS)

check: tools fmt clippy nix test doc licences kernel-tls topology scenarios conformance e2e systemd demo-smoke
	@echo "check: everything passed"

# With the release build: the guest's processor is emulated.
kernel-tls:
	cargo build --release --locked --bin pgtandem
	PGTANDEM_BIN=$(CARGO_TARGET_DIR)/release/pgtandem tests/kernel_tls/run

# With the release build: what is measured are milliseconds.
topology:
	cargo build --release --locked --bin pgtandem
	as_root=(); [ "$$(id -u)" = 0 ] || as_root=(sudo --preserve-env=PGTANDEM_BIN,CARGO_TARGET_DIR); \
	    PGTANDEM_BIN=$(CARGO_TARGET_DIR)/release/pgtandem "$${as_root[@]}" tests/topology/run $(TOPOLOGY_FLAGS)

nix:
	tests/nix/run

scenarios:
	cargo build --release --locked --bin pgtandem
	as_root=(); [ "$$(id -u)" = 0 ] || as_root=(sudo --preserve-env=PGTANDEM_BIN,PGTANDEM_VM_CACHE,CARGO_TARGET_DIR); \
	    PGTANDEM_BIN=$(CARGO_TARGET_DIR)/release/pgtandem "$${as_root[@]}" vm-tests/run $(SCENARIOS)

# With the release build: the suite counts seconds.
conformance:
	cargo build --release --locked --bin pgtandem
	as_root=(); [ "$$(id -u)" = 0 ] || as_root=(sudo --preserve-env=PGTANDEM_BIN,CARGO_TARGET_DIR); \
	    export PGTANDEM_BIN=$(CARGO_TARGET_DIR)/release/pgtandem; \
	    "$${as_root[@]}" tests/probes/run && "$${as_root[@]}" tests/conformance/run

tools:
	@.ci/install python3 cc git openssl postgresql strace ip nft tshark keepalived
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || \
	    rustup component add rustfmt clippy

fmt:
	cargo fmt --check

clippy:
	cargo clippy --locked --all-targets -- -D warnings

# Unit tests, tests/tidy.rs (the architecture's rules), simulations and the fuzz targets on their seeds. nextest does not see
# the cases of tests/process.rs and tests/address_helper.rs, which have a main of their own.
test:
	if cargo nextest --version >/dev/null 2>&1; then \
	    cargo nextest run --locked --all-targets && cargo test --locked --doc --quiet && \
	        cargo test --locked --test process --test address_helper; \
	else \
	    cargo test --locked; \
	fi

doc:
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' cargo doc --locked --no-deps --document-private-items

licences:
	if cargo deny --version >/dev/null 2>&1; then \
	    cargo deny --locked check licenses bans sources; \
	else \
	    .ci/licences; \
	fi

# With the debug build: its overflow checks and assertions find more.
e2e:
	cargo build --locked --bin pgtandem
	PGTANDEM_BIN=$(CARGO_TARGET_DIR)/debug/pgtandem tests/e2e/run

# Boots a machine in a container, which takes root.
systemd:
	cargo build --locked --bin pgtandem
	as_root=(); [ "$$(id -u)" = 0 ] || as_root=(sudo --preserve-env=PGTANDEM_BIN,PGTANDEM_SYSTEMD_CACHE,CARGO_TARGET_DIR); \
	    PGTANDEM_BIN=$(CARGO_TARGET_DIR)/debug/pgtandem "$${as_root[@]}" tests/systemd/run

demo-smoke:
	DEMO_SECONDS=20 demo/run </dev/null

fuzz:
	@exec fuzz/run $(TARGET) $(SECONDS)
