# `make demo`, `make demo-text` and `make test`. Each sets up .venv on its first run.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
TWO := -n 2 --dist loadfile --no-loadscope-reorder  # two at a time, the longest file not left for the end
LEFT := --ignore-glob='*/test_oracles*.py'  # which import torch to be looked at

unexport PYTHONDONTWRITEBYTECODE  # tests start many processes, and pytest rewrites what they assert

.PHONY: help demo demo-text test test-fast test-oracles lint clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.installed  ## the whole method on real data: train, flexify, fine-tune, report
	$(PY) -m flexidit_jax.main --config=configs/digits.py

demo-text: $(VENV)/.installed  ## the same for texts: captioned scenes, a weak mode by distillation, all words right
	$(PY) -m flexidit_jax.main --config=configs/scenes.py

test: $(VENV)/.installed  ## lint and every test that needs no torch
	$(VENV)/bin/ruff check .
	$(PY) -m pytest $(TWO) $(LEFT) -m "not oracle"

test-fast: $(VENV)/.installed  ## lint and the tests that neither train nor start a process
	$(VENV)/bin/ruff check .
	$(PY) -m pytest $(TWO) $(LEFT) -m "not oracle and not slow"

test-oracles: $(VENV)/.installed-oracle  ## live parity against torch and diffusers; GPU programs, where .[gpu] is
	$(PY) -m pytest $(TWO) -m oracle

lint: $(VENV)/.installed  ## ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:  ## removes runs and caches, keeps .venv
	rm -rf runs .cache .pytest_cache .ruff_cache

$(VENV)/.installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, found $$($(PYTHON) --version); set PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.installed-oracle: $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,oracle]'
	@touch $@
