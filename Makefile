# One command each; none asks a question. PYTHON picks the interpreter of the virtual environment.
PYTHON ?= python3
VENV ?= .venv
# Tests run in as many processes, of one thread each.
JOBS ?= 2
# Exact versions of everything, which the tests have run with; `make lock` renews them.
LOCK := requirements/lock.txt
# What `make check-install` tries: the lowest and the newest versions that pyproject.toml allows.
RESOLUTIONS ?= lowest-direct highest
BIN := $(VENV)/bin

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(LOCK)

.PHONY: setup quickstart test test-quick lint format docs reproduce demo bench bench-peers lock check-install clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp is older than these files whenever dependencies may have changed.
$(VENV)/.core: pyproject.toml $(LOCK) | $(BIN)/python
	$(INSTALL) --editable '.[media]'
	touch $@

$(VENV)/.dev: pyproject.toml $(LOCK) | $(BIN)/python
	$(INSTALL) --editable '.[media,train,eval,demo,serve,onnx,t5,espnet,dev]'
	touch $(VENV)/.core $@

$(BIN)/uv: | $(BIN)/python
	$(INSTALL) uv

setup: $(VENV)/.dev

quickstart: $(VENV)/.core
	$(BIN)/python recipes/asterisk/s2t/local/quickstart.py

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=20 --durations-min=5

test-quick: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x $$(git ls-files '*.sh')

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.docs: pyproject.toml $(LOCK) | $(BIN)/python
	$(INSTALL) --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# The tables of the README that need no hours, measured anew; what differs is said, and shown by git diff.
reproduce: $(VENV)/.dev
	$(BIN)/python -m benchmarks.reproduce

demo: $(VENV)/.core
	$(INSTALL) --editable '.[demo,media]'
	$(BIN)/python -m demo

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py

# AUDIO: recordings of speech, for peers whose models are trained.
bench-peers: $(VENV)/.dev $(BIN)/uv
	$(BIN)/python -m benchmarks.peers --uv $(BIN)/uv $(if $(AUDIO),--audio $(AUDIO))

lock: $(BIN)/uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url --output-file $(LOCK)

check-install: $(BIN)/uv
	set -e; for resolution in $(RESOLUTIONS); do \
		PYTHON=$(PYTHON) UV=$(CURDIR)/$(BIN)/uv requirements/check_install.sh $$resolution; \
	done

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
