# make quickstart    set up and fine-tune a real model on this machine
# make test          set up what tests need and run them
# make test-long     run those that take a minute each, to prove what others prove of simpler cases
# make check         format, lint, types, import contracts, quick unit tests
# make lint          the same without tests
# make format        write the format that check demands
# make docs          write the pages that are generated from the code
# make pins          write requirements.txt: what the quickstart installs, with the SHA-256 of each file
# make audit         look for known vulnerabilities in the pinned packages; needs the network
# make sbom          write sbom.json: what is installed, as CycloneDX
# make prove         kill, stop and damage runs at length and write docs/proofs.md; ONLY="kill9 faults"
# make matrix        try every combination of components and write docs/support-matrix.md
#
# TEST_WORKERS=4 chooses how many tests run at once.
# PYTHON=python3.12 chooses another interpreter, VENV=folder another environment. With RESUME=1,
# `make matrix` and `make prove` don't run again what their page says ran.

PYTHON ?= python3
VENV ?= .venv
OMP_NUM_THREADS ?= $(shell getconf _NPROCESSORS_ONLN)
RECIPE ?= recipes/quickstart/lora.yaml

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet --quiet install
INSTALL := $(PIP) --constraint constraints.txt
LAUNCH := $(RUN) -m accelerate.commands.launch --num_machines 1 --num_processes 1 \
	--mixed_precision no --dynamo_backend no
TEST_WORKERS ?= logical
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN) -m pytest -n $(TEST_WORKERS) --maxprocesses 8 \
	--dist worksteal
# Reports are drawn by the dozen there: a minute that only `make test` has.
QUICK_TESTS := tests/unit --ignore tests/unit/reports -m "not slow and not long"
PACKAGING := pyproject.toml constraints.txt requirements.txt

.PHONY: help quickstart test test-long check lint format docs matrix prove pins audit sbom install install-test install-dev clean

help:
	@sed -n '1,/^$$/s/^# *//p' Makefile

quickstart: install
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(LAUNCH) -m framework.train $(RECIPE)

test: install-test
	$(PYTEST)

test-long: install-test
	$(PYTEST) -m long

check: lint
	$(PYTEST) $(QUICK_TESTS)

lint: install-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/hadolint docker/Dockerfile.*

format: install-dev
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

docs: install
	$(RUN) docs/generate.py

matrix: install-test
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN) tests/support_matrix.py $(if $(RESUME),--resume)

prove: install-test
	PYTHONPATH=tests OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN) -m prove $(ONLY) $(if $(RESUME),--resume)

# Of every package for every system, but torch, of which each index has another build, and what
# torch brings for GPUs.
pins: install-dev
	printf 'pip\nsetuptools\n' | $(VENV)/bin/uv pip compile --quiet --universal \
		--python-version 3.11 --generate-hashes --no-header --no-annotate --output-file \
		$(VENV)/pins.txt --constraint constraints.txt pyproject.toml -
	{ echo "# Written by \`make pins\` from pyproject.toml and constraints.txt: see docs/security.md."; \
		awk '/^[^ ]/ { keep = $$0 !~ /^(torch|triton|nvidia-|cuda-)/ } keep' $(VENV)/pins.txt; \
	} > requirements.txt

audit: install-dev
	@echo "asking PyPI for what is known of the packages in constraints.txt"
	@if $(VENV)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
		--requirement constraints.txt > $(VENV)/audit.txt 2>&1; \
	then echo "nothing is known against any of them"; \
	elif grep -q '^Found ' $(VENV)/audit.txt; then cat $(VENV)/audit.txt; exit 1; \
	else tail -n 1 $(VENV)/audit.txt | cut -c 1-300; \
		echo "error: PyPI did not answer for all of them, so nothing is said: this needs the" \
			"network, and an index that knows of vulnerabilities" >&2; exit 1; fi

sbom: install-dev
	$(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library \
		--output-reproducible --output-format JSON --output-file sbom.json $(RUN)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# A larger set holds the smaller ones, so whoever has it installs nothing again.

install: $(VENV)/installed
install-test: $(VENV)/installed-test
install-dev: $(VENV)/installed-dev

$(VENV)/installed: $(VENV)/created $(PACKAGING)
	@echo "installing the pinned dependencies into $(VENV) (a few minutes the first time)"
	$(PIP) --require-hashes --no-deps --requirement requirements.txt
	$(INSTALL) torch
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "installing what tests need into $(VENV) (a few minutes the first time)"
	$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing what developers need into $(VENV) (a few minutes the first time)"
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/installed-test $@

# Interrupted, it is made again: the environment counts only with its last file.
$(VENV)/created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: $(PYTHON) is not found; Debian: apt install python3 python3-venv," \
			"or name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $$($(PYTHON) --version) is too old, Python 3.11 or newer is needed;" \
			"name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $$($(PYTHON) --version) can't make a virtual environment;" \
			"Debian: apt install python3-venv" >&2; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || \
		echo "warning: no C compiler is found, needed where a package has no wheel for this" \
			"machine; Debian: apt install build-essential" >&2
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@
