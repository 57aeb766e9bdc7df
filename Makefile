# `make run` and `make test` are each enough by themselves on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SCENARIO ?= scenarios/split_cifar.yaml
PLUGGED := $(VENV)/plugins
PLACE := import sysconfig; place = sysconfig.get_path('purelib')
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

# Python may keep what it compiles: each of the many processes of the tests would compile clkd again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test slow plugins lint docs schema clean

run: $(VENV)/.installed
	$(BIN)/clkd run $(SCENARIO)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

# First-party plugins: each by its own tests, then all parts by the laws; and the extra that needs much, ray. Their
# environment sees all that is in the first, and what they bring and need stays out of that: `make test` is about clkd alone.
plugins: $(PLUGGED)/.installed
	$(MAKE) --no-print-directory --jobs 2 --output-sync $(PLUGINS:%=%/tested)
	$(PLUGGED)/bin/python -m clkd plugin check
	$(PLUGGED)/bin/python -m pytest tests/sweep/test_cluster.py

plugins/%/tested:
	cd plugins/$* && $(abspath $(PLUGGED))/bin/python -m pytest

$(PLUGGED)/.installed: $(VENV)/.installed constraints.txt $(PLUGINS:%=%/pyproject.toml)
	$(BIN)/python -m venv --without-pip $(PLUGGED)
	$(BIN)/python -c "$(PLACE); print(f'import site; site.addsitedir({place!r})')" > \
	  $$($(PLUGGED)/bin/python -c "$(PLACE); print(place)")/first.pth
	$(PLUGGED)/bin/python -m pip install --quiet --constraint constraints.txt ray $(PLUGINS:%=--editable './%[test]')
	touch $@

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
