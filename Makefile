# kgen's commands: `make run` installs everything into .venv and trains the quickstart.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
JOBS ?= 2
CONFIG ?= configs/quickstart.yaml

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
MODELS := $(patsubst %/pyproject.toml,%,$(wildcard models/*/pyproject.toml))
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
NEEDED = $(addprefix ./plugins/,$(shell grep -o '"kgen-plugin-[a-z-]*[>[]' plugins/kgen-plugin-$(PLUGIN)/pyproject.toml | tr -d '">[' | sort -u))
DECLARED := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml models/*/pyproject.toml)

# Let Python keep its bytecode, whatever the environment says: else each process compiles TensorFlow and Keras anew.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help run install develop test test-all test-alone docs lint format bench dist clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 24

run: $(VENV)/.installed  ## Install kgen and all plugins, and train the quickstart, or another run file (CONFIG=...)
	$(BIN)/kgen run $(CONFIG)

install: $(VENV)/.installed  ## Install kgen, all plugins and TensorFlow into .venv

develop: $(VENV)/.developing  ## Install also the dependencies of tests, linters and benchmarks

test: $(VENV)/.developing  ## Run the tests, on TensorFlow, JAX and PyTorch
	KERAS_BACKEND=tensorflow $(PYTEST) -m 'not slow and (backends or not portable)'
	KERAS_BACKEND=jax $(PYTEST) -m 'not slow and backends'
	KERAS_BACKEND=torch $(PYTEST) -m 'not slow and (backends or portable)'

test-all: $(VENV)/.developing  ## Run every test on TensorFlow, and the marked ones on JAX and PyTorch, with the slow ones
	KERAS_BACKEND=tensorflow $(PYTEST) tests
	KERAS_BACKEND=tensorflow $(PYTEST) plugins  # in new processes, because TensorFlow never frees compiled functions
	KERAS_BACKEND=jax $(PYTEST) -m backends
	KERAS_BACKEND=torch $(PYTEST) -m 'backends or portable'

test-alone:  ## Run one plugin's tests, with only the plugins that it needs: make test-alone PLUGIN=vae
	$(PYTHON) -m venv --clear $(VENV)-alone
	$(VENV)-alone/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
		'.[tensorflow]' './plugins/kgen-plugin-$(PLUGIN)[test]' $(NEEDED)
	$(VENV)-alone/bin/pytest plugins/kgen-plugin-$(PLUGIN)

docs: $(VENV)/.developing  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build  # mkdocs.yml is strict: a broken link is an error

lint: $(VENV)/.developing  ## Check style, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.developing  ## Format the source
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.developing  ## Time kgen and other libraries
	set -e; for script in benchmarks/*.py; do $(BIN)/python $$script; done

dist: $(VENV)-dist/.installed  ## Build the wheel and the sdist of every distribution into dist/, and check them
	rm -rf dist
	printf '%s\n' . $(PLUGINS) $(MODELS) | xargs -P $(JOBS) -I FOLDER \
		$(VENV)-dist/bin/python -m build --quiet --no-isolation --outdir dist FOLDER
	$(VENV)-dist/bin/twine check --strict dist/*

clean:  ## Remove .venv, dist/ and caches of tools, but not runs/
	rm -rf dist site $(VENV) $(VENV)-alone $(VENV)-dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kgen needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'setuptools>=77'  # once for kgen and all plugins; else pip installs it to build each of them

# Editable installation: only changes of pyproject.toml files need a new one.
$(VENV)/.installed: $(DECLARED) | $(VENV)/bin/python
	$(PIP) --no-build-isolation --editable '.[tensorflow,tfds]' $(addprefix --editable ./,$(PLUGINS) $(MODELS))
	@touch $@

$(VENV)/.developing: $(DECLARED) | $(VENV)/bin/python
	$(PIP) --no-build-isolation --editable '.[dev]' $(foreach plugin,$(PLUGINS),--editable './$(plugin)[test]') \
		$(addprefix --editable ./,$(PLUGINS) $(MODELS))  # also without the extra, so that pip finds what one plugin needs of another
	@touch $(VENV)/.installed $@

# The tools of releases have an environment of their own, which holds nothing of kgen and no framework.
$(VENV)-dist/.installed: constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-dist
	$(VENV)-dist/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt build setuptools twine
	@touch $@
