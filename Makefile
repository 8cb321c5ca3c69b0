# `make demo` shows what Knarr does; `make test` proves it. Both set everything up first, with Python, pip and make alone.
SHELL  := /bin/sh
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SCALE  ?= 0.1
HOLD   ?=
# Two workers on two cores: each has servers of its own, and a file's tests stay together, in order.
PYTEST_WORKERS ?= 3
ARGS   ?=

export UV_PYTHON_DOWNLOADS = never
# The machine's own certificates: behind a company's proxy uv's built-in ones know nobody.
export UV_SYSTEM_CERTS = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint faults lock clean

help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp's name holds a checksum of what set-up depends on: a pull that changes a pin installs again, nothing else does.
STAMP := $(VENV)/.ok-$(shell cat requirements.txt pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)
LOG   := $(VENV)/setup.log

$(STAMP):
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "There is no '$(PYTHON)' on the PATH. Install Python 3.11 or newer, or say where it is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit("Python 3.11 or newer is needed, and %s is %d.%d. Say which to use: make PYTHON=python3.12" % ((sys.executable,) + sys.version_info[:2]) if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) (half a minute the first time; log: $(LOG)) ..."
	@set -eu; mkdir -p "$(VENV)"; : >"$(LOG)"; \
	failed() { tail -n 20 "$(LOG)" >&2; echo "Set-up failed: $$1" >&2; exit 1; }; \
	if UV=$$(command -v uv 2>/dev/null); then \
	  "$$UV" venv -q --allow-existing --python "$(PYTHON)" "$(VENV)" >>"$(LOG)" 2>&1 || failed "uv could not make $(VENV)"; \
	else \
	  "$(PYTHON)" -c 'import venv, ensurepip' 2>>"$(LOG)" || failed "this Python has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; \
	  [ -x "$(BIN)/python" ] && "$(BIN)/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && "$(BIN)/python" -m pip --version >/dev/null 2>&1 \
	    || "$(PYTHON)" -m venv --clear "$(VENV)" >"$${TMPDIR:-/tmp}/knarr-venv.$$$$" 2>&1 || { cat "$${TMPDIR:-/tmp}/knarr-venv.$$$$" >>"$(LOG)"; rm -f "$${TMPDIR:-/tmp}/knarr-venv.$$$$"; failed "python -m venv could not make $(VENV)"; }; \
	  rm -f "$${TMPDIR:-/tmp}/knarr-venv.$$$$"; \
	  awk '/^[^ #]/{keep = /^uv==/} keep' requirements.txt >"$(VENV)/requirements-uv.txt"; \
	  if "$(BIN)/python" -m pip install -q --require-hashes -r "$(VENV)/requirements-uv.txt" >>"$(LOG)" 2>&1 && [ -x "$(BIN)/uv" ]; then UV="$(BIN)/uv"; else UV=; fi; \
	fi; \
	[ -n "$${UV_CACHE_DIR:-}" ] || mkdir -p "$${XDG_CACHE_HOME:-$${HOME:-/nonexistent}/.cache}/uv" 2>/dev/null || export UV_NO_CACHE=1; \
	if [ -n "$$UV" ]; then install() { VIRTUAL_ENV="$(VENV)" "$$UV" pip install -q "$$@"; }; \
	else install() { "$(BIN)/python" -m pip install -q "$$@"; }; fi; \
	if [ -n "$$UV" ] && ! install --require-hashes -r requirements.txt >>"$(LOG)" 2>&1; then \
	  "$(BIN)/python" -m pip --version >/dev/null 2>&1 || failed "the pinned packages could not be installed (no network? no space?)"; \
	  install() { "$(BIN)/python" -m pip install -q "$$@"; }; \
	fi; \
	install --require-hashes -r requirements.txt >>"$(LOG)" 2>&1 || failed "the pinned packages could not be installed (no network? no space?)"; \
	install --no-deps --no-build-isolation -e . >>"$(LOG)" 2>&1 || failed "the project itself could not be installed"; \
	rm -f "$(VENV)"/.ok-*; touch $@

setup: $(STAMP) ## make the virtual environment
	@echo "$(VENV) is ready. Next: make demo, or $(BIN)/knarr --help"

demo: $(STAMP) ## move a real order system, then take it all back (SCALE=0.1, HOLD=1 stays up until Ctrl-C)
	@SCALE="$(SCALE)" HOLD="$(HOLD)" $(BIN)/python -m starter.demo

lint: $(STAMP) ## style, types and who may import whom
	@echo "ruff: style";             $(BIN)/ruff check .
	@echo "ruff: layout";            $(BIN)/ruff format --check .
	@echo "mypy: types, strict";     $(BIN)/mypy
	@echo "import-linter: layers";   $(BIN)/lint-imports --no-cache

test: lint ## set-up, lint and every test, against real servers (ARGS= goes to pytest)
	@echo "pytest: $(PYTEST_WORKERS) workers, each with PostgreSQL servers of its own"
	@$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) --dist worksteal --durations=10 $(ARGS)
	@echo "All green. Next: make demo; pictures and reports that the tests made are in artefacts/."

faults: $(STAMP) ## break everything that can be broken, at length, and write docs/reliability.md's table (half an hour)
	@rm -f artefacts/faults.jsonl
	@KNARR_FAULTS=long $(BIN)/python -m pytest -q tests/faults $(ARGS); code=$$?; $(BIN)/python -m tests.faults.table && exit $$code

lock: $(STAMP) ## pin again: the newest versions, with hashes, without a host
	@set -eu; UV=$$(command -v uv || echo "$(BIN)/uv"); \
	pin() { "$$UV" pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate "$$@" pyproject.toml; }; \
	pin --upgrade --group embedded --group dev -o requirements.txt; \
	pin --upgrade -c requirements.txt -o requirements-runtime.txt
	@! grep -nE '[a-z]+://' requirements.txt requirements-runtime.txt
	@echo "requirements.txt and requirements-runtime.txt are new. Next: make test"

clean: ## remove the environment, the caches and what runs left here
	rm -rf $(VENV) .knarr artefacts reports .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
