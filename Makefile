# `make` alone prints the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DIST ?= dist
UV = $(or $(shell command -v uv),$(BIN)/uv)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all cluster-test check bench wheel build lock clean

help:  ## print this
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' Makefile | column -t -s :

install: build  ## into .venv: packages and the Rust extension

demo: build  ## install, build, and train the demo suite: tokenizer, tokens, four models (minutes on two cores)
	@$(BIN)/python -m suite.demo

test: build  ## the tests (under five minutes on two cores, no GPU, no network)
	cargo test --release --quiet
	$(BIN)/python -m pytest -m "not slow and not cluster"

test-all: test  ## the tests, the long ones too (some 20 minutes on two cores)
	$(BIN)/python -m pytest -m "slow and not cluster"

cluster-test:  ## `ray up` on two hosts made of namespaces: needs root, sshd, rsync and ip (minutes)
	@PYTHONPATH=tests $(PYTHON) -c 'import hosts, sys; sys.exit(hosts.missing())'
	@$(MAKE) --no-print-directory wheel
	@test -x $(BIN)/uv || $(UV) pip install --quiet --python $(BIN)/python uv
	$(BIN)/python -m pytest -m cluster

check: build  ## formatting, lints and types, Python and Rust
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	cargo fmt --check
	cargo clippy --release --all-targets --quiet -- -D warnings

bench: build  ## the figures, quick form
	@for script in bench/train.py bench/plan.py bench/data.py bench/tokenizer.py bench/reading.py bench/executor.py; do $(BIN)/python $$script --quick || exit 1; done

wheel: build  ## an abi3 wheel of package and extension, in dist/, and one for Ray jobs, in dist/job/
	@rm -rf $(DIST) target/job && mkdir -p $(DIST)/job
	@$(BIN)/maturin build --quiet --release --out $(DIST) >/dev/null
	@# Ray installs a job's wheel on every node with all that it depends on, which would be torch anew for each; the
	@# nodes have that, so this wheel names none. Its build number is a hash: a cluster keeps what it has under a name.
	@$(BIN)/wheel unpack --dest target/job $(DIST)/*.whl >/dev/null
	@sed -i '/^Requires-Dist/d' target/job/*/*.dist-info/METADATA
	@$(BIN)/wheel pack --build-number 0$$(sha256sum $(DIST)/*.whl | cut -c1-12) --dest-dir $(DIST)/job target/job/* >/dev/null
	@ls $(DIST)/*.whl $(DIST)/job/*.whl

build: $(VENV)/built

# The stamp files make the second `make` a matter of milliseconds.
$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "suite needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 demo"; exit 1; }
	@test -x $(BIN)/python || { command -v uv >/dev/null && uv venv --quiet --python $(PYTHON) $(VENV); } \
	  || $(PYTHON) -m venv $(VENV) \
	  || { echo "could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	@echo "installing packages into $(VENV) (about 3 GB to download, once; most of it is torch with CUDA)"
	@$(UV) pip install --quiet --python $(BIN)/python -r requirements.lock
	@touch $@

$(VENV)/built: $(VENV)/installed Cargo.toml Cargo.lock pyproject.toml $(shell find rust -name '*.rs' -o -name Cargo.toml)
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust (rustup, or your system's package 'cargo', 1.89 or newer), then run make again"; exit 1; }
	@echo "building the Rust extension (about a minute, once)"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --reinstall-package suite -e .
	@touch $@

lock:  ## resolve requirements.lock anew
	$(UV) pip compile --quiet --no-header --no-annotate --no-emit-index-url --python $(BIN)/python --extra dev --extra sentencepiece \
	  pyproject.toml -o requirements.lock

clean:  ## remove what was built, not what was trained
	rm -rf $(VENV) target dist
