# make setup   a virtual environment with everything (done once; needs CPython >= 3.11 and pip)
# make bench   train and score every method against known ground truth; ARGS="..." are passed on
# make speed   whole training steps, ours and other libraries', in turns; needs a quiet machine; ARGS="..." are passed on
# make test    the unmarked tests, on two cores
# make check   format, lint, types, house rules
# make test-slow | test-compile | test-gpu   the marked tests
# make pages   every page and figure that is made from records, anew; nothing is run or measured
# make real        fetch the real models and data that CI uses (REAL="..." for others); make test-real runs their tests
# make peers       other libraries' released packages in side environments, and the proofs of the formats against them
# make clean   remove the environment and every cache

.DEFAULT_GOAL := help
.PHONY: help setup bench speed test test-slow test-compile test-gpu pages check check-format check-lint check-types check-house format import-cost clean peers peers-ci peers-ci-install real test-real

SUITABLE := import sys, venv, pip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	"$$p" -c '$(SUITABLE)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
TORCH ?= torch==2.13.0
WORKERS ?= 2
ARGS ?=
REAL ?= stories15m minilm ada40 newsgroups

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PIP = $(PYTHON) -m pip --disable-pip-version-check --python $(BIN)/python install --quiet
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

help:
	@sed -n 's/^# //p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no CPython >= 3.11 with pip found; name one: make setup PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) and $(TORCH)"
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	@$(PIP) "$(TORCH)"
	@$(PIP) "$(TORCH)" --editable ".[dev]"
	@touch $@

bench: setup
	$(BIN)/monosem bench $(ARGS)

speed: setup
	$(PYTHON) -m benchmarks.peers --speed
	$(BIN)/python -m benchmarks speed --peers .peers --threads 1,2 --curves --sweep --record benchmarks/records/cpu.json $(ARGS)

test: setup
	$(PYTEST) -q -n $(WORKERS) --dist worksteal $(ARGS)

test-slow: setup
	$(PYTEST) -q -m slow $(ARGS)

test-compile: setup
	MONOSEM_NO_TYPECHECK=1 $(PYTEST) -q -m compile $(ARGS)

test-gpu: setup
	$(PYTEST) -q -m gpu $(ARGS)

pages: setup
	$(BIN)/python -m studies pages
	$(BIN)/python -m benchmarks pages

# A registry that does not answer (3) leaves tests to be skipped; a wrong hash (2) is a failure.
real: setup
	@$(BIN)/python -m studies fetch $(REAL) || { test $$? -eq 3 && echo "SKIPPED: not all of $(REAL) could be fetched"; }

test-real: setup
	$(PYTEST) -q -m real $(ARGS)

check: check-format check-lint check-types check-house

check-format: setup
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; exit 1; }

check-lint: setup
	$(BIN)/ruff check --quiet .

check-types: setup
	$(BIN)/mypy

check-house: setup
	$(PYTEST) -q tests/house

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

import-cost: setup
	$(BIN)/python -m benchmarks imports

peers: setup
	$(PYTHON) -m benchmarks.peers
	$(BIN)/python tests/interop/table.py

peers-ci-install: setup
	$(PYTHON) -m benchmarks.peers saelens dictionary_learning

peers-ci: peers-ci-install
	$(PYTEST) -q -m slow tests/interop/test_peers.py -k "by-saelens or by-dictionary_learning or saebench"

clean:
	rm -rf $(VENV) .peers build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
