# Everything happens in .venv, built on first use by uv where there is one and by pip otherwise.
#   PYTHON=python3.12   the interpreter to build .venv with
#   ARGS="..."          passed on to the command behind a target

VENV := .venv
RUN := $(VENV)/bin/python -m
PINS := pyproject.toml constraints.txt Makefile
UV := $(shell command -v uv 2>/dev/null)
ARGS ?=

# The first interpreter that is recent enough and can build an environment. An interpreter is run
# and not just found, because version managers leave names behind that do not start.
PROBE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c '$(PROBE)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

ifneq ($(UV),)
INSTALL := "$(UV)" pip install --quiet --python $(VENV)/bin/python
else
INSTALL := $(RUN) pip install --quiet --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help setup reproduce results test check parity docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.test ## build .venv and install the project with its tests

reproduce: setup ## run the experiments and draw the figures
	$(VENV)/bin/modeseek reproduce $(ARGS)

results: setup ## the results that are kept with the code
	$(VENV)/bin/modeseek reproduce $(ARGS) --out experiments/results --files svg gif

test: setup ## the default tests
	$(RUN) pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: $(VENV)/.dev ## lint, format, types and layers
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports --no-logo

parity: $(VENV)/.parity ## objectives and models against the same in torch
	$(RUN) pytest -n auto --maxprocesses 4 tests/objectives/test_parity_torch.py tests/llm/parity $(ARGS)

docs: $(VENV)/.docs ## build the site of docs/ into site/
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet -f docs/mkdocs.yml $(ARGS)

clean: ## remove .venv and every cache
	rm -rf $(VENV) site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras; each is stale when a dependency, a pin or this file has changed.
$(VENV)/.test: $(PINS) | $(VENV)/bin/python
	$(INSTALL) -c constraints.txt -e '.[llm,rewards,test]'
	@touch $@

$(VENV)/.dev: $(PINS) | $(VENV)/bin/python
	$(INSTALL) -c constraints.txt -e '.[llm,rewards,test,dev,docs]'
	@touch $@

# What the tests skip without: the site, the page in a browser, MP4, notebooks.
$(VENV)/.docs: $(PINS) | $(VENV)/bin/python
	$(INSTALL) -c constraints.txt -e '.[llm,rewards,test,docs,browser,video,notebooks]'
	@touch $@

# By pip in either case: it follows the configuration that says where this machine's torch is.
$(VENV)/.parity: $(PINS) | $(VENV)/bin/python
	$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[llm,rewards,test,parity]'
	@touch $@

$(VENV)/bin/python:
ifneq ($(UV),)
	"$(UV)" venv --quiet --seed --allow-existing --python '$(or $(PYTHON),>=3.11)' $(VENV)
else
	@test -n '$(PYTHON)' || { \
		echo 'No Python >= 3.11 that can build an environment was found (on Debian and Ubuntu the'; \
		echo 'package python3-venv is needed too). Install one, or uv, or say which: make PYTHON=...'; \
		exit 1; } >&2
	@'$(PYTHON)' -c '$(PROBE)' || { \
		echo '$(PYTHON) is not a Python >= 3.11 with venv and ensurepip.' >&2; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
endif
