# Everything is done in a virtual environment that make builds itself; the only things
# needed are make and Python 3.11 or later (`make PYTHON=python3.13 test` picks another).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PEERS := torch tensorflow keras
# What is tried on the oldest versions that are supported.
LOWEST := tests/test_adagrad.py tests/test_apply.py tests/rows/test_visit.py \
  tests/rows/test_gradient.py tests/keras/test_step.py
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.benchmarks  ## train a click model on real data, with a plot (2 minutes)
	$(BIN)/python -m benchmarks.census

demo-sharded: $(VENV)/.benchmarks  ## the same model on 2 processes, of which one is killed (4 minutes)
	$(BIN)/python -m benchmarks.census.sharded

bench: $(VENV)/.benchmarks  ## measure against the peers that are installed (an hour; ARGS=--quick tries it)
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(PEERS:%=$(VENV)-%/.peer)  ## install the peers, each in an environment of its own

test: $(VENV)/.tests  ## run the tests (10 to 13 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-lowest: $(VENV)-lowest/.lowest  ## some tests on the oldest jax and optax that are supported (2 minutes)
	$(VENV)-lowest/bin/python -I tests/smoke.py
	$(VENV)-lowest/bin/python -m pytest -n 2 --dist loadfile $(LOWEST)

check: $(VENV)/.check  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.docs  ## build the documentation into site/
	$(BIN)/sphinx-build -W -q docs site

# Not from this folder, where Python and pyright would find the package uninstalled.
dist: $(VENV)/.check  ## build wheel and sdist into dist/, and try each in an empty environment (1 minute)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	@set -e; for built in dist/*; do \
	  echo "$$built, installed:"; \
	  $(BIN)/python -m venv --without-pip --clear $(VENV)-dist; \
	  $(BIN)/python -m pip --python $(VENV)-dist install --quiet "$$built"; \
	  (cd / && PATH="$(abspath $(VENV)-dist/bin):$$PATH" && \
	    python -I "$(CURDIR)/tests/smoke.py" && \
	    "$(abspath $(BIN)/pyright)" --verifytypes adagrad_jax --ignoreexternal); \
	done

clean:  ## remove the virtual environments and what was built
	rm -rf $(VENV) $(PEERS:%=$(VENV)-%) $(VENV)-dist $(VENV)-lowest dist site

# One stamp for each set of dependencies, older than pyproject.toml if that has changed.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.benchmarks $(VENV)/.tests $(VENV)/.docs: $(VENV)/.%: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(VENV)/.check: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --group check --editable ".[keras]"
	@touch $@

$(VENV)-lowest/.lowest: $(VENV)/.made pyproject.toml
	@rm -f $@
	$(BIN)/python -m venv --without-pip $(VENV)-lowest
	$(BIN)/python -m pip --python $(VENV)-lowest install --quiet --group lowest --editable ".[tests]"
	@touch $@

# Peers may want other versions of what we need. One that cannot be had is left out.
$(PEERS:%=$(VENV)-%/.peer): $(VENV)-%/.peer: $(VENV)/.made pyproject.toml
	@rm -f $@
	@$(BIN)/python -m venv --without-pip $(VENV)-$* && \
	  $(BIN)/python -m pip --python $(VENV)-$* install --quiet --group peer-$* && \
	  touch $@ && echo "$*: installed in $(VENV)-$*" || \
	  echo "$*: NOT installed; make bench leaves it out"

.PHONY: help demo demo-sharded bench bench-peers test test-lowest check docs dist clean
