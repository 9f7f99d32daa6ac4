# make setup    a virtual environment with the packages of requirements.lock (once; needs CPython >= 3.11 and pip)
# make bench    train and score every method against known ground truth; ARGS="..." are passed on, here and below
# make test     the unmarked tests, on two cores; make test-slow, test-compile, test-gpu and test-real: the marked ones
# make check    format, lint, types, house rules; make format: what ruff can mend by itself
# make first-use  the wheel in empty environments, README and the walkthrough in 80 columns; make nightly: all as printed
# make pages    every page and figure that is made from records, anew; nothing is run or measured
# make speed    whole training steps, ours and other libraries', in turns; needs a quiet machine
# make gpu-day  the tests and the measurements that need a GPU
# make real     fetch the real models and data that `make test-real` reads (REAL="..." for others)
# make peers    other libraries' released packages in side environments, and the proofs of the formats against them
# make lock     requirements.lock anew, with what the registry has today; needs CPython 3.11
# make test-newest  the unmarked tests with what the registry has today; NEWEST="torch==2.13.0" keeps a package back
# make site     the documentation with its search and API pages, into .site/html; any warning fails
# make attack   damaged and hostile files against every command, killed runs; goes on where it stopped (below runs/attack)
# make fuzz     every method against the independent float64 model, 200 random models each
# make sanitize  the C kernels under the address, undefined-behaviour and thread sanitizers
# make mutants  changed expressions of theory, losses and core, and whether a test notices; ARGS="--count 200 --seconds 3600"
# make clean    remove the environments and every cache

.DEFAULT_GOAL := help
.PHONY: help setup bench test test-slow test-compile test-gpu test-real test-newest check check-format check-lint \
	check-types check-house format pages speed gpu-day real peers peers-ci peers-ci-install lock fuzz sanitize mutants attack site \
	site-install first-use nightly browser clean

SUITABLE := import sys, venv, pip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	"$$p" -c '$(SUITABLE)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
PACKAGES ?= --requirement requirements.lock
NEWEST ?= torch
WORKERS ?= 2
ARGS ?=
REAL ?= stories15m minilm ada40 newsgroups

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PIP = $(PYTHON) -m pip --disable-pip-version-check --quiet
INTO = $(PIP) --python $(BIN)/python install
# A test that hangs for ten minutes ends its worker, with every thread's stack; the longest takes some seconds.
NO_HANG := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

setup: $(STAMP)

# setuptools is among the packages, so that building needs nothing that is not in the lock.
$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "no CPython >= 3.11 with pip; name one: make setup PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) and $(PACKAGES)"
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	@$(INTO) $(PACKAGES)
	@$(INTO) --no-build-isolation --no-deps --editable .
	@touch $@

bench: setup
	$(BIN)/monosem bench $(ARGS)

test: setup
	$(PYTEST) -n $(WORKERS) --dist worksteal $(NO_HANG) $(ARGS)

test-compile: export MONOSEM_NO_TYPECHECK = 1
test-slow test-compile test-gpu test-real: setup
	$(PYTEST) -m $(@:test-%=%) $(ARGS)

test-newest:
	$(MAKE) test VENV=.newest PACKAGES='--upgrade setuptools $(NEWEST) ".[dev]"'

check: check-format check-lint check-types check-house

check-format: setup
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; exit 1; }

check-lint: setup
	$(BIN)/ruff check --quiet .

check-types: setup
	$(BIN)/mypy

check-house: setup
	$(PYTEST) tests/house

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

pages: setup
	$(BIN)/python -m studies pages
	$(BIN)/python -m benchmarks pages

speed: setup
	$(PYTHON) -m benchmarks.peers --speed
	$(BIN)/python -m benchmarks speed --peers .peers --threads 1,2 --curves --sweep --record benchmarks/records/cpu.json $(ARGS)

# Where no environment is set up, the machine's own python: a machine with a GPU may have no registry to install from.
gpu-day:
	PYTHONPATH=src $(firstword $(wildcard $(BIN)/python) python3) -m benchmarks.gpu_day --out benchmarks/records/gpu.json $(ARGS)

# A registry that does not answer (3) leaves tests to be skipped; a wrong hash (2) is a failure.
real: setup
	@$(BIN)/python -m studies fetch $(REAL) || { test $$? -eq 3 && echo "SKIPPED: not all of $(REAL) could be fetched"; }

peers: setup
	$(PYTHON) -m benchmarks.peers
	$(BIN)/python tests/interop/table.py

peers-ci-install: setup
	$(PYTHON) -m benchmarks.peers saelens dictionary_learning

peers-ci: peers-ci-install
	$(PYTEST) -m slow tests/interop/test_peers.py -k "by-saelens or by-dictionary_learning or saebench"

# A dry run: nothing is installed. This triton is the one that CUDA builds of this torch insist on.
lock: setup
	$(PIP) install --dry-run --ignore-installed --report $(VENV)/lock.json torch==2.13.0 triton==3.7.1 ".[dev]"
	$(BIN)/python .ci/lock.py < $(VENV)/lock.json > $(VENV)/requirements.lock
	mv $(VENV)/requirements.lock requirements.lock

fuzz: setup
	MONOSEM_FUZZ=200 $(PYTEST) tests/oracle $(ARGS)

# An environment of its own: nothing here needs torch.
site-install:
	@test -x .site/venv/bin/python || $(PYTHON) -m venv --without-pip .site/venv
	@$(PIP) --python .site/venv/bin/python install --requirement .ci/site.lock

site: site-install
	NO_MKDOCS_2_WARNING=1 .site/venv/bin/python -m mkdocs build --quiet

first-use: setup
	$(BIN)/python .ci/first_use.py $(ARGS)

# Pages are opened in a browser where there is one; root of a Debian machine gets one.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	test "$$(id -u)" = 0 && timeout 120 apt-get update -qq \
		&& timeout 300 apt-get install -qq --no-install-recommends chromium fonts-dejavu-core \
		|| echo "SKIPPED: no browser is installed and none could be, so pages are not opened"

# An hour or two of one core. Its seconds are committed.
nightly: setup
	$(BIN)/python .ci/first_use.py --whole --record

# The kernels with a driver of their own, from several threads: no Python, whose allocator would hide what is wrong.
NATIVE := src/monosem/kernels/native
SANITIZE = $(CC) -O1 -g -march=native -std=gnu11 -fopenmp-simd -fno-sanitize-recover=all -I $(NATIVE)
sanitize:
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && for kind in address,undefined thread; do \
		$(SANITIZE) -fsanitize=$$kind -o $$folder/driver tests/kernels/driver.c $(NATIVE)/*.c -lm -lpthread \
			&& $$folder/driver && echo "nothing wrong: $$kind" || exit 1; done

# Set aside: an hour or more. Outcomes are added to tests/mutants.jsonl; a further call goes on from there.
mutants: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(ARGS)

attack: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attack files --count 2000 --seeds 0
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attack files --count 500 --seeds 1
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attack kills --count 300 --seeds 0
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attack record --seeds 0 1

clean:
	rm -rf $(VENV) .newest .peers .site build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
