# make study   set up and run the study on the embedded editor
# make test    set up, lint and test
# make venv    set up only (done once; again when pyproject.toml or constraints.txt change)
# make lint    format, lint and type checks; notebooks must carry no outputs
# make docs    the pages: README, concepts, how-to, commands, the study, the library, in build/docs
# make clean   remove caches and build products; .venv and runs stay
# Another interpreter: make study PYTHON=python3.12.  Arguments: make study ARGS="--limit 8".

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: help venv study test lint docs clean

help:
	@sed -n 's/^# //p' Makefile

venv: $(INSTALLED)

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed, $(PYTHON) is %s: try make $(MAKECMDGOALS) PYTHON=python3.12" \
	  % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[test]'
	@rm -f $(VENV)/.installed-*
	@touch $@

study: $(INSTALLED)
	$(BIN)/ground-probe study --out runs/study $(ARGS)

test: export PYTEST_ADDOPTS := --numprocesses 2 --dist worksteal $(PYTEST_ADDOPTS)
test: lint
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@for notebook in $(NOTEBOOKS); do $(BIN)/nbstripout --verify $$notebook || exit 1; done

docs: $(INSTALLED)
	$(BIN)/python docs/build.py build/docs

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
