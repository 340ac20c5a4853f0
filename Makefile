# `make quickstart` trains a small model from nothing; `make test` checks the code. Both set up .venv when needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint types setup docs browser clean

quickstart: setup
	$(BIN)/python train.py experiment=meta_synthetic_warp

test: lint types # a process per CPU; whole files, so that what a file prepares is made once
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile
	@echo "left out: tests marked slow and gpu; run them with $(BIN)/python -m pytest -m slow (or -m gpu)"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 14) else \
	  "Python 3.11 to 3.14 is needed, %s is %d.%d: run make with PYTHON=/path/to/python3.13" % (("$(PYTHON)",) + v))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,offline,dev]'
	touch $@

docs: .venv-docs/installed # the site, in site/; strictly: a link to nowhere is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/installed: # of its own: the docs are read from the sources, nothing of the project is imported
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet 'mkdocs-material>=9.7,<10' 'mkdocstrings[python]>=1.0'
	touch $@

browser: # Chromium, which the tests in a browser want; as root
	apt-get install --yes --no-install-recommends chromium

clean:
	rm -rf .venv .venv-docs site .mypy_cache .pytest_cache .ruff_cache
