# `make run` and `make test` are each enough by themselves on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SCENARIO ?= scenarios/split_cifar.yaml

.PHONY: run test slow lint docs schema clean

run: $(VENV)/.installed
	$(BIN)/clkd run $(SCENARIO)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -c docs -d build/doctrees . build/site

schema: $(VENV)/.installed
	$(BIN)/clkd schema > scenarios/clkd.schema.json

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build docs/reference *.egg-info
