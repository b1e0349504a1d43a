# demo and test are all a newcomer needs; the rest is for work on tlm itself.
CARGO ?= cargo

.PHONY: demo test lint test-lib test-torch quickstart doc libtorch

demo: libtorch
	$(CARGO) build --release --quiet
	./target/release/tlm run examples/quickstart/quickstart.tlm

test: libtorch lint test-lib test-torch doc

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --no-default-features --all-targets --quiet -- -D warnings
	$(CARGO) clippy --all-targets --quiet -- -D warnings

# Everything but tensors; needs no libtorch.
test-lib:
	$(CARGO) test --no-default-features

test-torch: libtorch
	$(CARGO) test

# The quickstart for real, in its small profile: every stage, few tokens.
quickstart: libtorch
	$(CARGO) build --release --quiet
	./scripts/quickstart-test.sh

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --quiet

libtorch:
	@./scripts/libtorch.sh
