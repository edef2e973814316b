# Run `make` alone for the list of targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test quick lint up bench

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name) 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS ?=
# A module's tests run in one worker, so that they share what they have made; the longest modules come first.
PYTEST = $(BIN)/python -m pytest -q -n 3 --dist loadscope --no-loadscope-reorder
# A comma inside $(call ...) would end the argument.
EVERYTHING := .[dev,text]

# Dagster finds dagster.yaml here; everything it and the project store goes under data/.
export DAGSTER_HOME := $(CURDIR)
export PYTHONUNBUFFERED := 1
# What is compiled once is kept, whatever the caller's shell says: every worker and child of the tests would do it again.
unexport PYTHONDONTWRITEBYTECODE

# $(call timed,what it does,command): say it, do it, say how long it took.
timed = @printf '==> %s\n' '$(1)'; begin=$$(date +%s); $(2); printf '==> done in %s s: %s\n' "$$(( $$(date +%s) - begin ))" '$(1)'

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the environment in .venv and install everything into it
	@printf '==> environment ready: %s\n' '$(BIN)'

$(STAMP): pyproject.toml constraints.txt
	$(call timed,make .venv with $(PYTHON) and install the pinned packages,\
	"$(PYTHON)" -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "Python 3.11 or 3.12 is needed: make setup PYTHON=/path/to/python3.11"); ' \
	&& { [ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV); } \
	&& $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '$(EVERYTHING)' \
	&& touch $(STAMP))

demo: $(STAMP) ## sample data to a forecast over HTTP, with walk-forward results (no network)
	$(call timed,materialise the graph on the embedded sample and serve a forecast,$(BIN)/python -m btc_assets demo)

test: $(STAMP) ## run the tests; TESTS=path runs a part
	$(call timed,run the tests,$(PYTEST) $(TESTS))

quick: $(STAMP) ## run the tests of the inner loop: those that are not marked slow or live; TESTS=path runs a part
	$(call timed,run the quick tests,$(PYTEST) -m "not slow and not live" $(TESTS))

lint: $(STAMP) ## ruff (rules and format) and mypy
	$(call timed,ruff and mypy,$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy)

up: $(STAMP) ## Dagster UI, forecast server and MLflow UI on loopback until Ctrl-C
	@$(BIN)/python -m btc_assets up

bench: $(STAMP) ## the benchmarks, as one table of ratios
	$(call timed,run the benchmarks,$(BIN)/python -m benchmarks)
