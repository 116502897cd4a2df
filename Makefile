SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help

.PHONY: help
help:  ## List the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/' | awk -F: '{printf "make %-10s %s\n", $$1, $$2}'

.PHONY: env
env: .venv/.installed  ## Make or update .venv with the locked versions.

# uv installs in seconds what pip needs minutes for; its version is in the lock like everybody else's.
.venv/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "ncbook needs Python 3.11 or newer: make PYTHON=python3.12 env"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements.txt)"
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet requirements.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	touch $@
