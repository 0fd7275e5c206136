# fedrecon: every target sets up what it needs first. "make" alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := data/demo

export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast fuzz tamper kills faults check docs bench gpu-check ui clean

help:  ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## virtual environment in .venv with the pinned packages of constraints.txt

# torch first and alone: its pin keeps pip from fetching another build later. The bytecode is made afterwards, on all
# cores: pip makes it on one. A file of a package that Python cannot compile is none that anybody imports.
$(VENV)/.installed: constraints.txt pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedrecon needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@touch $@

demo: install  ## simulate four hospitals, train them federatedly on Ray, print the scores
	$(BIN)/fedrecon data simulate $(DEMO) --size 64 --subjects 12
	$(BIN)/fedrecon run experiments/quickstart.yaml
	@echo "Browse runs, curves and picture panels in MLflow:  make ui   (or: $(BIN)/fedrecon ui)"

# The order of the files is that of tests/conftest.py: what waits comes first. Bytecode is kept: the suite starts some
# hundred processes, and each would compile the library anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: install  ## the whole test suite
	$(PYTEST)

test-fast: install  ## the tests that need no Ray, kill no process, start no server and are not slow
	$(PYTEST) --numprocesses 2 -m "not ray and not kill and not server and not slow"

KILLS ?= 200
SEED ?= 0
fuzz: install  ## 20,000 bad inputs through main() in one process, 200 as processes: no traceback, hang or death
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --cases 20000 --processes 200 --seed $(SEED)

CASES ?= 500
tamper: install  ## damage files, replies and settings of runs (CASES, SEED): no wrong result, no traceback, no death
	$(BIN)/python tests/tamper.py --cases $(CASES) --seed $(SEED)

kills: install  ## kill drivers at seeded moments (KILLS, SEED), let each run end: the same bits
	$(BIN)/python tests/kills.py --kills $(KILLS) --seed $(SEED)

faults: install  ## each fault in each phase of a run, then the same command: the same bits (SEED; needs root and cc)
	$(BIN)/python tests/faults.py --seed $(SEED)

check: install  ## ruff, mypy --strict and the layout guards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet tests/test_layout.py tests/test_cluster_yaml.py

docs: install  ## the documentation with the reference of the code, in build/docs: a broken link is an error
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs
	@echo "Open build/docs/index.html"

bench: install  ## seconds, CPU-seconds, bytes and memory against a bare PyTorch loop
	$(BIN)/python bench/run.py

gpu-check: install  ## bits, devices, speed and memory on a GPU, into gpu-check.json (without one: what a CPU can do)
	$(BIN)/python bench/gpu_check.py

ui: install  ## MLflow on 127.0.0.1, on the page that shows runs
	$(BIN)/fedrecon ui

clean:  ## remove .venv and caches; data and workspace stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find platform sites strategies tune tests bench src -name __pycache__ -type d -prune -exec rm -rf {} +
