# Each target makes .venv and installs what it needs; a .venv that is already there is kept, with the torch in it.
PYTHON ?= python3
BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check
INSTALL := $(BIN)/python $(PIP) --constraint constraints.txt
# Tests run two at a time, so each process has one thread. Of pytest's plugins only xdist is loaded:
# other packages bring along some whose import takes seconds.
TESTING := OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
PYTEST := -m pytest -p xdist.plugin -n 2 --dist worksteal
CORE := -m "not (slow or browser or extra)"
TORCH := grep '^torch==' constraints.txt

.PHONY: demo test test-slow test-all test-oldest test-newest lint format constraints clean

demo: .venv/core
	$(BIN)/uncollapse demo --overwrite

test: .venv/test
	$(TESTING) $(BIN)/python $(PYTEST) $(CORE)

test-slow: .venv/dev
	$(TESTING) $(BIN)/python $(PYTEST) -m "slow or browser or extra"

test-all: .venv/dev
	$(TESTING) $(BIN)/python $(PYTEST)

# The core tests at the lowest and at the newest versions that pyproject.toml admits; torch stays as pinned.
test-oldest test-newest: test-%: .venv-%/test
	$(TESTING) .venv-$*/bin/python $(PYTEST) $(CORE)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# constraints.txt anew, but for torch and the comment: the newest versions that fit together.
constraints: .venv-constraints/dev
	{ grep '^#' constraints.txt; .venv-constraints/bin/python -m pip freeze --all --exclude pip --exclude-editable \
		| sed 's/+.*//' | sort -f; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-constraints

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable .
	touch $@

.venv/test: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable '.[test]'
	touch $@ .venv/core

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable '.[dev]'
	touch $@ .venv/core .venv/test

.venv-oldest/test: pyproject.toml .ci/lowest.py
	rm -rf .venv-oldest && $(PYTHON) -m venv .venv-oldest
	{ .venv-oldest/bin/python .ci/lowest.py; $(TORCH); } > .venv-oldest/constraints.txt
	.venv-oldest/bin/python $(PIP) --constraint .venv-oldest/constraints.txt --editable '.[test]'
	touch $@

.venv-newest/test .venv-constraints/dev: pyproject.toml
	rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	$(TORCH) > $(@D)/constraints.txt
	$(@D)/bin/python $(PIP) --constraint $(@D)/constraints.txt --editable '.[$(@F)]'
	touch $@
