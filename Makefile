# make demo       train a small model on the shipped clips and write a page about it, in runs/demo
# make test       ruff, mypy and pytest
# make test-wheel the built wheel in an environment of its own, with a third-party plugin added
# make test-slow  the tests that take minutes
# make reliability  everything of docs/reliability.md, measured anew; hours
# make docs       write the generated pages anew
# make clean      remove the environment and caches; runs/ stays
#
# Everything is installed from PyPI into .venv. Another Python or torch:
#   make demo PYTHON=python3.12
#   make demo TORCH="torch==2.15.0" CONSTRAINTS=      (versions the tests did not run on)
#   make demo TORCH="torch==2.13.0 --extra-index-url URL"   (a build of torch from elsewhere)

PYTHON ?= python3
# torch is named in the same command as everything that depends on it: pip would replace it otherwise.
TORCH ?= torch==2.13.0
CONSTRAINTS ?= -c constraints.txt
DEMO ?= runs/demo
JOBS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
PROJECTS := pyproject.toml constraints.txt

.PHONY: demo test test-wheel test-slow reliability docs clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/python -m zoo.demo --out $(DEMO) --force

# Each check runs even if one before it fails, and any that fails makes the whole fail.
test: .venv/.installed-test
	@failed=""; \
	check() { echo "== $$*"; OMP_NUM_THREADS=1 $(BIN)/python -m "$$@" || failed="$$failed $$1"; }; \
	check ruff check .; \
	check ruff format --check .; \
	check mypy; \
	check pytest -n $(JOBS) --dist loadfile -m "not slow"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

# Not editable, not here: what a user gets who installs the wheel, then somebody's plugin.
test-wheel: .venv/.installed-test
	rm -rf build/wheel && $(BIN)/python -m build --quiet --wheel --outdir build/wheel .
	$(PYTHON) -m venv --clear build/wheel/env
	build/wheel/env/bin/python -m pip --disable-pip-version-check install --quiet \
	  $(CONSTRAINTS) $(TORCH) build/wheel/*.whl ./plugins/example pytest hypothesis
	cd build/wheel && env/bin/zoo doctor && env/bin/zoo list && env/bin/zoo check example \
	  && env/bin/python -m pytest -q -c $(CURDIR)/plugins/example/pyproject.toml $(CURDIR)/plugins/example/tests

test-slow: .venv/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

reliability: .venv/.installed-test
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m chaos
	$(BIN)/python docs/generate.py

docs: .venv/.installed-test
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "zoo needs Python 3.11 or newer; \"$(PYTHON)\" is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python $(PROJECTS)
	$(PIP) $(CONSTRAINTS) $(TORCH) -e .
	@touch $@

.venv/.installed-test: .venv/bin/python $(PROJECTS)
	$(PIP) $(CONSTRAINTS) $(TORCH) -e ".[test,train]"
	@touch $@ .venv/.installed
