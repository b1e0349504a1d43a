# `make test` is everything the continuous integration runs; the other targets are its parts.
CARGO ?= cargo

.PHONY: demo paper test lint test-lib test-slow test-faults test-kill test-torch doc bench libtorch

# Cargo uses all cores by itself, and tests that wait for processes want them undisturbed.
.NOTPARALLEL:

# Builds, and runs the quickstart on real data.
demo: libtorch
	$(CARGO) build --release
	$(CARGO) run --release --quiet -- run examples/quickstart/quickstart.tlm

# Every table and figure of the paper, small: two to three hours on two cores. It can be interrupted; a second time it runs nothing.
paper: libtorch
	$(CARGO) build --release
	./scripts/paper.sh

test: lint test-lib test-slow test-torch doc

lint: libtorch
	$(CARGO) fmt --check
	$(CARGO) clippy --no-default-features --all-targets --quiet -- -D warnings
	$(CARGO) clippy --all-targets --quiet -- -D warnings

# Everything but tensors; needs no libtorch.
test-lib:
	$(CARGO) test --no-default-features

# What keeps `cargo test` from ending within a minute.
test-slow:
	$(CARGO) test --no-default-features --test it -- --ignored run::kills run::bad_stages

# Each system call that may fail, and each two changes that a crash may lose, where `make test` takes a few; ten minutes.
test-faults:
	$(CARGO) test --no-default-features --lib -- --ignored store::atomic
	$(CARGO) test --no-default-features --test it -- --ignored run::faults

test-torch: libtorch
	$(CARGO) test

# Kills runs and workers a thousand times, from a seed of its own each time; minutes.
KILLS ?= 1000
SEED ?= $(shell date +%s)
test-kill:
	TLM_TEST_KILLS=$(KILLS) TLM_TEST_SEED=$(SEED) $(CARGO) test --no-default-features --test it -- --ignored run::kills

doc: libtorch
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --quiet

# All benches without tensors.
bench:
	$(CARGO) bench --no-default-features

libtorch:
	@./scripts/libtorch.sh
