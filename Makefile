# Run `make` alone for the list of targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test quick lint up bench

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name) 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed
ALL := $(VENV)/.installed-all
TESTS ?=
# conftest.py says which tests share a worker; the longest modules come first. Live tests mostly wait, so a third worker
# fills the two cores; the quick tests fill them alone, and each worker imports everything.
PYTEST = $(BIN)/python -m pytest -q --no-loadscope-reorder

# Dagster finds dagster.yaml here, which puts its history into the data folder.
export DAGSTER_HOME := $(CURDIR)
export PYTHONUNBUFFERED := 1
# Keep compiled bytecode even if the caller's shell disables it: every test worker and child would compile again.
unexport PYTHONDONTWRITEBYTECODE

# $(call timed,what it does,command): say it, do it, say how long it took.
timed = @printf '==> %s\n' '$(1)'; begin=$$(date +%s); $(2); printf '==> done in %s s: %s\n' "$$(( $$(date +%s) - begin ))" '$(1)'

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BASE) ## make .venv with what the graph, the demo and the servers need
	@printf '==> environment ready: %s\n' '$(BIN)'

$(BASE): pyproject.toml constraints.txt
	@"$(PYTHON)" deploy/install.py base

# What the tests and linters need on top of it, the transformers included.
$(ALL): pyproject.toml constraints.txt
	@"$(PYTHON)" deploy/install.py all

demo: $(BASE) ## sample data to a forecast over HTTP, with walk-forward results (no network)
	$(call timed,materialise the graph on the embedded sample and serve a forecast,$(BIN)/python -m btc_assets demo)

test: $(ALL) ## run the tests; TESTS=path runs a part
	$(call timed,run the tests,$(PYTEST) -n 3 $(TESTS))

quick: $(ALL) ## run the tests of the inner loop: those that are not marked slow or live; TESTS=path runs a part
	$(call timed,run the quick tests,$(PYTEST) -n 2 -m "not slow and not live" $(TESTS))

lint: $(ALL) ## ruff (rules and format) and mypy
	$(call timed,ruff and mypy,$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy)

up: $(BASE) ## Dagster UI, forecast server and MLflow UI on loopback until Ctrl-C
	@$(BIN)/python -m btc_assets up

bench: $(ALL) ## the benchmarks, as one table of ratios
	$(call timed,run the benchmarks,$(BIN)/python -m benchmarks)
