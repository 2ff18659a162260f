# What one does with Haulier from a clone. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VERSIONS := (3, 11) <= v < (3, 14)
supported = $1 -c 'import sys; v = sys.version_info; sys.exit(not $(VERSIONS))' 2>/dev/null
# The first of these that is a Python of a supported version.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$(call supported,$$p) && echo $$p && break; done)

BIN := .venv/bin
# Arguments for pytest, the demo, the benchmarks or `haulier up`: make test ARGS="-k settings"
ARGS ?=

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 26

.PHONY: install
install: .venv/.installed ## Install Haulier and everything it needs into .venv

.venv/.installed: requirements-dev.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 found. Install one, or name it: make PYTHON=/path/to/python3"; \
		exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) cannot make virtual environments, a part of it is not installed."; \
		echo "On Debian and Ubuntu: apt-get install python3-venv"; \
		exit 1; fi
	@echo "Installing into .venv, with $$($(PYTHON) -V)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(call install,.venv)
	@touch $@

# The lock file's own files by their hashes, then Haulier itself, built with what the lock file
# brought; pip check would find a bound of pyproject.toml that the lock file does not keep. Most of
# the modules are never imported: Python compiles the others when they are.
install = $1/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--require-hashes --requirement requirements-dev.lock \
	&& $1/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --no-index --editable . \
	&& $1/bin/python -m pip check | { grep -v '^No broken' || true; }

.PHONY: check
check: install ## Lint, format, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# More workers than cores: half of a test is waiting.
TESTERS ?= 4
# The workers may compile the tests once, whatever the shell says.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TESTERS) --dist worksteal

.PHONY: test
test: install ## The tests, on real servers (ARGS for pytest)
	$(PYTEST) $(ARGS)

.PHONY: test-slow
test-slow: install ## What make test leaves out: cases much like others, longer chaos, more examples
	$(PYTEST) -m slow $(ARGS)

.PHONY: test-all
test-all: install ## All tests
	$(PYTEST) -m "" $(ARGS)

.PHONY: wheels
wheels: install ## Build the wheels of Haulier and of its client into dist/
	$(BIN)/python -m hatchling build -t wheel -d dist
	cd client && ../$(BIN)/python -m hatchling build -t wheel -d ../dist

.PHONY: docs
docs: install ## The documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: demo
demo: install ## The whole pipeline on this machine, against the simulator, in a minute
	@$(BIN)/python -m tests.acceptance.demo $(ARGS)

.PHONY: up
up: install ## Run Haulier here; against the simulator unless TOGETHER_API_KEY is set
	@$(BIN)/haulier up $(if $(TOGETHER_API_KEY),,--simulate) $(ARGS)

# The oldest and the newest interpreter found, or those given: make test-versions PYTHONS="…"
PYTHONS ?= $(shell for p in python3.11 python3.12 python3.13; do \
	$(call supported,$$p) && echo $$p; done | sed -n '1p;$$p' | uniq)
.PHONY: test-versions
test-versions: ## The tests without servers on the oldest and newest Python found (PYTHONS)
	@for p in $(PYTHONS); do \
		name=$$($$p -c 'import platform; print(platform.python_version())'); \
		venv=build/python-$$name; \
		echo "Python $$name"; \
		if [ ! requirements-dev.lock -ot $$venv/.installed ]; then \
			$$p -m venv --clear $$venv; $(call install,$$venv); touch $$venv/.installed; fi; \
		$$venv/bin/python -m pytest -q tests/unit $(ARGS); done

UV ?= $(or $(shell command -v uv),build/uv/bin/uv)
LOCK = $(UV) pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	$(UPGRADE)
.PHONY: lock
lock: $(UV) ## Write the lock files (everything; the service; its build); UPGRADE=--upgrade for the newest releases
	$(LOCK) --extra dev --output-file requirements-dev.lock pyproject.toml
	$(LOCK) --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	echo hatchling | \
		$(LOCK) --constraint requirements-dev.lock --output-file requirements-build.lock -

build/uv/bin/uv:
	$(PYTHON) -m venv --clear build/uv
	build/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'

.PHONY: docker-test
docker-test: install ## Build the image, bring the compose file up, run jobs, kill containers
	$(BIN)/python -m tests.docker $(ARGS)

# How long faults go on, and which ones; the same seed plans the same: make chaos MINUTES=30 SEED=2
MINUTES ?= 5
SEED ?= 1
.PHONY: chaos
chaos: install ## Break everything at random for MINUTES (5), then audit (SEED)
	@$(BIN)/python -m tests.faults.chaos --minutes $(MINUTES) --seed $(SEED)

# Of four weeks each; ends at about the present: make year MONTHS=1
MONTHS ?= 13
.PHONY: year
year: install ## Live through MONTHS (13) of traffic on a clock that jumps, audit, and draw the plots
	@$(BIN)/python -m tests.virtual_time.year --months $(MONTHS) --docs $(ARGS)

.PHONY: fuzz
fuzz: install ## Send odd things to everything that reads for MINUTES (5), beside ordinary work (SEED)
	@$(BIN)/python -m tests.faults.fuzz --minutes $(MINUTES) --seed $(SEED)

.PHONY: siege
siege: install ## Be hostile to a service in every way at once for MINUTES (5), beside ordinary work
	@$(BIN)/python -m tests.faults.siege --minutes $(MINUTES)

.PHONY: console-pictures
console-pictures: install ## Draw every page of the console into build/console, wide, narrow and dark
	$(BIN)/python -m pytest -q -m "" tests/console/test_pictures.py $(ARGS)

.PHONY: bench
bench: install ## Measure Haulier here, against the simulator, into docs/performance.md (ARGS="--help")
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: bench-peers
bench-peers: ## Install public batch tools that make bench then measures beside Haulier
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install --quiet --disable-pip-version-check \
		openai-batch==0.3.4 httpx msgspec

.PHONY: sbom
sbom: build/supply/.installed ## List what the service is made of, with hashes, in build/sbom.json (CycloneDX)
	@build/supply/bin/python -W ignore -m cyclonedx_py requirements requirements.lock \
		--pyproject pyproject.toml --output-reproducible --output-file build/sbom.json
	@echo "build/sbom.json lists $$(grep -c == requirements.lock) packages"

# pip-audit ends in a traceback where the list cannot be read, so that is tried first. Strict: what
# PyPI does not know is an error, and not a package without vulnerabilities.
.PHONY: audit-dependencies
audit-dependencies: build/supply/.installed ## Look for known vulnerabilities of all dependencies (needs pypi.org)
	@build/supply/bin/python -c 'from requests import get; \
		get("https://pypi.org/pypi/pip/json", timeout=15).raise_for_status()' 2>/dev/null \
	|| { echo "Nothing was audited: https://pypi.org, which lists known vulnerabilities, does not answer"; \
		exit 1; }
	@build/supply/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		--requirement requirements-dev.lock

build/supply/.installed: Makefile
	$(PYTHON) -m venv --clear build/supply
	build/supply/bin/python -m pip install --quiet --disable-pip-version-check \
		cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

.PHONY: clean
clean: ## Remove what make made; data in .haulier stays
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find client config service workers tests -name __pycache__ -type d -prune -exec rm -rf {} +
