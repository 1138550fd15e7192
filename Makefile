# The two commands of the README are `make up` and `make test`.

# Debian packages that building and testing need beyond Rust itself.
APT := build-essential pkg-config python3 python3-venv etcd-server etcd-client prometheus chromium

.PHONY: up setup test lint bench soak

up:
	cargo run --release -- up

# Says what is missing and sets it up; asks for root only where apt needs it.
setup:
	@missing=$$(dpkg-query -W -f '$${Package} $${Status}\n' $(APT) 2>/dev/null | awk '/ok installed/ {print $$1}'); \
	for package in $(APT); do echo "$$missing" | grep -qx $$package || need="$$need $$package"; done; \
	if [ -n "$$need" ]; then \
		echo "installing Debian packages:$$need"; \
		if [ $$(id -u) = 0 ]; then apt-get update -q && apt-get install -y -q $$need; \
		else sudo apt-get update -q && sudo apt-get install -y -q $$need; fi; \
	fi
	@if ! cmp -s tests/python/requirements.txt .venv/requirements.txt; then \
		echo "setting up .venv for the tests with the official OpenAI client"; \
		python3 -m venv .venv && .venv/bin/pip install -q -r tests/python/requirements.txt && \
		cp tests/python/requirements.txt .venv/requirements.txt; \
	fi

test: setup
	cargo test --release --workspace

lint:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

# What Flotilla adds to a request (tests/src/bin/overhead/), how fast and how well it decides,
# what a cascade costs and saves (tests/src/bin/cascade_cost.rs).
bench:
	cargo build --release --workspace
	target/release/overhead
	cargo bench -p flotilla-core
	cargo bench -p flotilla-controller
	target/release/cascade_cost

# Half an hour of random faults under load; see tests/src/soak.rs.
soak: setup
	cargo build --release --workspace
	target/release/soak
