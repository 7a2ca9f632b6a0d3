# Each target does its own set-up and can be run first on a fresh Debian 12 machine with Rust.

# Cargo's own tools come before Debian's rustc, which only compiles the eBPF programs.
export PATH := $(HOME)/.cargo/bin:$(PATH)

# Cargo, with tests run on another kernel. A guest has one processor: how several share turns is not for it. Before
# Linux 6.4 a map does not tell that it has grown: what others write there is found by the next whole sync. What the
# programs do with each other, and how many messages they send, is the same on either kernel: one of them is asked.
guest = cargo --config "target.'cfg(all())'.runner=['$(CURDIR)/tests/guest/run', '$(1)']"

.PHONY: demo test fuzz lint bench setup

demo: setup  ## shows fail-over, draining and balancing on this machine's kernel, in namespaces of its own
	@cargo build --release --bins
	@cargo demo $(DEMO)

test: setup  ## every tier of tests; root is needed for network namespaces and eBPF
	cargo build --bins
	cargo test --workspace --exclude ebpf-programs --exclude tests
	cargo test -p ebpf-programs --lib
	cargo test -p tests --lib
	cargo test -p tests --doc
	cargo scenario-tests
	cargo kernel-tests -- --test-threads=1
	$(call guest,6.1) kernel-tests -- --test-threads=1 --skip balance:: --skip contract:: --skip entries_that_somebody_else_writes
	$(call guest,6.12) kernel-tests -- --test-threads=1 --skip balance:: --skip older::
	$(call guest,5.10) ipvs-tests -- --test-threads=1 debian_11::
	$(call guest,6.1) ipvs-tests -- --test-threads=1 --skip debian_11:: --skip modes:: --skip neighbours:: --skip scale::
	$(call guest,6.12) ipvs-tests -- --test-threads=1 --skip debian_11::
	cargo network-tests -- --test-threads=1
	cargo cluster-tests -- --test-threads=1
	tests/fuzz/run.sh 20

fuzz: setup  ## random input for what reads packets; FUZZ=3600 for an hour
	tests/fuzz/run.sh $(or $(FUZZ),20)

lint: setup  ## formatting, lints, documentation and the rules of who may depend on whom
	cargo fmt --all --check
	cargo clippy --workspace --exclude ebpf-programs --all-targets -- -D warnings
	cargo clippy -p ebpf-programs --lib -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --exclude ebpf-programs --no-deps --document-private-items
	command -v cargo-deny >/dev/null || cargo install -q cargo-deny --version 0.20.2 --locked --no-default-features
	cargo deny --all-features --config .deny.toml check bans licenses sources

bench:  ## figures of this machine, rivals beside ours; BENCH=--quick takes a few minutes
	@./setup.sh bench
	cargo build --release --bins
	cargo run --release --bin bench -- $(BENCH)
	$(if $(filter-out --quick,$(BENCH)),,cargo bench --bench plan --bench decode -- $(or $(BENCH),--warm-up-time 1 --measurement-time 2))

setup:
	@./setup.sh
