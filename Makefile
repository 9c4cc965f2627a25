# `make quickstart` and `make test` need nothing but git, make and python3.11: each sets up what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Installed and complete: newer than what it was installed from
READY := $(VENV)/.installed
SOURCES := pipeline_steps train evaluate_suite launch tests

.PHONY: help install slurm quickstart test slow faults check format bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

install: $(READY) ## make .venv and install everything into it, at the tested versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[quickstart,embed,dev]"
	@touch $@

slurm: ## as root on Debian: install the Slurm that its tests start, and skip without
	@dpkg -s slurmctld slurmd slurm-client munge >/dev/null 2>&1 || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null; }

quickstart: $(READY) ## score, select, pre-train, evaluate and report on this machine, in minutes
	$(BIN)/winnow quickstart --output runs/quickstart

# One process more than two cores: for a quarter of the time, tests wait. None takes long: one that hangs fails soon
test: $(READY) ## run the tests, but for the slow ones
	$(BIN)/python -m pytest --timeout 120 --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 15 -q -rs

slow: $(READY) ## run the slow tests: kills of whole quickstarts and studies, some minutes of the fault campaign
	$(BIN)/python -m pytest -m slow -q -rs

FAULTS ?= 100
faults: $(READY) ## kill, damage, fill and fail everything at random: FAULTS=1000 for as many kills
	$(BIN)/python -m tests.faults --kills $(FAULTS)

check: $(READY) ## format, lint and types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: $(READY) ## rewrite the sources in the house format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(READY) ## run the benchmarks: ratios against peers, in one run
	@for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

clean: ## remove what the tools leave behind, but no runs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
