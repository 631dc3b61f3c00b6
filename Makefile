# kgen's commands: `make run` installs everything into .venv and trains the quickstart.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
JOBS ?= 2
CONFIG ?= configs/quickstart.yaml

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
DECLARED := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)

.PHONY: help run install develop test test-backends test-all test-alone lint format bench clean

help:  ## Show what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 24

run: $(VENV)/.installed  ## Install kgen and all plugins, and train the quickstart (CONFIG=... another)
	$(BIN)/kgen run $(CONFIG)

install: $(VENV)/.installed  ## Install kgen, all plugins and TensorFlow into .venv

develop: $(VENV)/.developing  ## The same, and what tests, linters and benchmarks need

test: $(VENV)/.developing  ## The tests, on TensorFlow
	KERAS_BACKEND=tensorflow $(PYTEST) -m 'not slow'

test-backends: $(VENV)/.developing  ## The tests that depend on the backend, on JAX and on PyTorch
	KERAS_BACKEND=jax $(PYTEST) -m 'backends and not slow'
	KERAS_BACKEND=torch $(PYTEST) -m 'backends and not slow'

test-all: $(VENV)/.developing  ## Every test on every backend: an hour and more
	KERAS_BACKEND=tensorflow $(PYTEST)
	KERAS_BACKEND=jax $(PYTEST)
	KERAS_BACKEND=torch $(PYTEST)

test-alone:  ## One plugin's tests where no other plugin is: make test-alone PLUGIN=vae
	$(PYTHON) -m venv --clear $(VENV)-alone
	$(VENV)-alone/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
		'.[tensorflow]' './plugins/kgen-plugin-$(PLUGIN)[test]'
	$(VENV)-alone/bin/pytest plugins/kgen-plugin-$(PLUGIN)

lint: $(VENV)/.developing  ## Style, types, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.developing  ## Put the source into its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.developing  ## Time kgen beside its peers
	set -e; for script in benchmarks/*.py; do $(BIN)/python $$script; done

clean:  ## Remove .venv and what tools left (not runs/)
	rm -rf $(VENV) $(VENV)-alone .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kgen needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'setuptools>=77'  # once, for kgen and all plugins; pip would install it anew to build each of them

# Editable: a change of the source needs no installation, a change of what is declared does.
$(VENV)/.installed: $(DECLARED) | $(VENV)/bin/python
	$(PIP) --no-build-isolation --editable '.[tensorflow,tfds]' $(addprefix --editable ./,$(PLUGINS))
	@touch $@

$(VENV)/.developing: $(DECLARED) | $(VENV)/bin/python
	$(PIP) --no-build-isolation --editable '.[dev]' $(foreach plugin,$(PLUGINS),--editable './$(plugin)[test]')
	@touch $(VENV)/.installed $@
