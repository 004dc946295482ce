# Everything runs in .venv, made by the first target that needs it. PYTHON=python3.12 make setup chooses another Python.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# The test processes share the cores: one thread each is faster than all of them asking for every core.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 MPLBACKEND=Agg HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
QUICKSTART := examples/quickstart

.PHONY: help setup demo test fault-test soak check lint types imports gpu-test editor-test clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with simpletune and its tools, at the tested versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,prodigy]'
	@touch $@

demo: $(READY)  ## train the quickstart on a CPU, and draw what its pictures don't show: base beside fine-tuned
	$(BIN)/simpletune validate $(QUICKSTART)/config.json
	$(BIN)/simpletune train $(QUICKSTART)/config.json
	$(BIN)/simpletune generate $(QUICKSTART)/config.json --prompts $(QUICKSTART)/prompts.txt --seeds 2
	$(BIN)/simpletune report $(QUICKSTART)/config.json

test: $(READY)  ## the tests
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n 2 --dist worksteal

fault-test: $(READY)  ## kills, faults and bad inputs by the hundred, and a table of them
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n 2 --dist worksteal -m fault

soak: $(READY)  ## 20,000 steps of the smallest model: neither memory nor files may grow
	SOAK_STEPS=20000 $(TEST_ENVIRONMENT) $(BIN)/python -m pytest -s -m fault tests/faults/test_soak.py

check: lint types imports test  ## all that CI runs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

gpu-test:  ## the tests that need a CUDA GPU, with the Python that is active
	$(PYTHON) -m pytest -m gpu tests/gpu

editor-test: $(READY)  ## the tests with VS Code's own JSON support, which npm installs into tests/editor
	cd tests/editor && npm ci --no-audit --no-fund
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest tests/editor

clean:  ## remove what was built, not what was trained
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis tests/editor/node_modules
