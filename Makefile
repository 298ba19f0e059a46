# One command each; none asks a question. PYTHON picks the interpreter of the virtual environment.
PYTHON ?= python3
VENV ?= .venv
# Tests run in as many processes, of one thread each.
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: setup quickstart test test-quick lint format demo bench clean

# The stamp is older than pyproject.toml whenever dependencies may have changed.
$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[media,recipes]'
	touch $@

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[media,recipes,demo,dev,espnet]'
	touch $(VENV)/.core $@

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

demo: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,media]'
	$(BIN)/python demo/app.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
