# Set-up and daily work. Everything that is installed goes into .venv, everything that is made into runs/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's CPU wheels, for example: make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(INDEX) --constraint requirements/constraints.txt
MINUTES ?=
SCALE ?= 1
# What make test-versions runs, for example: make test-versions TESTS=tests/models
TESTS ?=
.DEFAULT_GOAL := help

.PHONY: help quickstart test test-slow test-extras test-pages test-versions torture wheel lint types format golden references clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml requirements/constraints.txt
	@test -x $(BIN)/python || (echo "making $(VENV)"; $(PYTHON) -m venv $(VENV))
	@echo "installing fast-electra and what it needs into $(VENV) (a minute or two)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "installing what the tests need"
	@$(PIP) --editable '.[test,tensorboard]'
	@touch $@

$(VENV)/installed-extras: $(VENV)/installed-test
	@echo "installing every tracker and export library"
	@$(PIP) --editable '.[test,tensorboard,wandb,trackio,mlflow,onnx,sentence-transformers,triton]' sentencepiece protobuf
	@touch $@

$(VENV)/installed-pages: $(VENV)/installed-test
	@$(PIP) --editable '.[test,tensorboard,pages]'
	@touch $@

$(VENV)/installed-lint: $(VENV)/installed
	@$(PIP) --editable '.[lint]'
	@touch $@

quickstart: $(VENV)/installed  ## pre-train, evaluate and report on this machine's Python code (MINUTES=n to rescale)
	@$(BIN)/fast-electra quickstart $(if $(MINUTES),--minutes $(MINUTES),)

test: $(VENV)/installed-test  ## the tests, without those marked slow, on all cores
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

test-slow: $(VENV)/installed-test  ## the tests marked slow
	@$(BIN)/python -m pytest -m slow

test-extras: $(VENV)/installed-extras  ## the tests of trackers, ONNX, sentence-transformers, SentencePiece and Triton, which it installs (2.5 GB)
	@$(BIN)/python -m pytest -rs tests/training/test_trackers.py tests/publishing/test_formats.py tests/data/test_sentencepiece.py tests/corruption/test_triton_sampling.py

test-pages: $(VENV)/installed-pages  ## the pages of reports in a browser (the system's Chromium, driven by Playwright)
	@$(BIN)/python -m pytest -rs tests/report/test_pages.py

test-versions:  ## the tests with the lowest and the newest supported versions, in environments of their own (each 6 GB with CUDA)
	@$(PYTHON) tools/test_versions.py --pip='$(INDEX)' --numprocesses logical --maxprocesses 8 --dist loadfile $(TESTS)

torture: $(VENV)/installed-test  ## damage, kill and starve everything, and write the table of docs/reliability.md (SCALE=0.05: a twentieth)
	@$(BIN)/python -m tests.torture --scale $(SCALE)

wheel: $(VENV)/installed-lint  ## build the wheel and the sdist into dist/, and try the wheel in an empty environment
	@$(BIN)/python tools/try_wheel.py $(INDEX)

lint: $(VENV)/installed-lint  ## ruff: rules and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/installed-lint  ## pyright
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/installed-lint  ## mend what ruff can mend
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

golden: $(VENV)/installed-test  ## regenerate the golden loss curves; say in the commit why they moved
	@$(BIN)/python -m tests.golden

references: $(VENV)/installed  ## reference curves and their picture (RUNS="a b": from these runs, all of a preset's at once)
	@$(BIN)/python tools/references.py $(RUNS)

clean:  ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache
