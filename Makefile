# Every target sets up what it needs, in any order, as often as you like. GNU make and Python are all it takes.

PYTHON ?= python3
BIN := .venv/bin
LOCK := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --all-build-deps \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

# The question as it was typed: make would expand a `$` in it. It travels as a variable, so that no shell quotes matter.
unexport PROMPT
ifeq ($(origin PROMPT),command line)
export QUESTION := $(value PROMPT)
else
unexport QUESTION
endif

.PHONY: help setup run test lint types fmt bench docs lock clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/run.stamp ## Install what running needs into .venv

run: .venv/run.stamp ## Serve a model and ask it something: make run PROMPT="Why is the sky blue?"
	@$(BIN)/hyprstream demo $${QUESTION:+--prompt="$$QUESTION"}

test: .venv/dev.stamp ## Run every test
	$(BIN)/python -m pytest

lint: .venv/dev.stamp ## Check style, formatting and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: .venv/dev.stamp ## Check the types
	$(BIN)/pyright

fmt: .venv/dev.stamp ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/dev.stamp ## Measure beside llama-server, which is built once (about five minutes)
	$(BIN)/hyprstream pull smollm2
	$(BIN)/python bench/peers/build.py
	$(BIN)/hyprstream bench --model smollm2 --peer llama-server

docs: .venv/dev.stamp ## Build the documentation into site/
	$(BIN)/python scripts/reference.py
	$(BIN)/mkdocs build --strict

lock: .venv/dev.stamp ## Pin every dependency again, with hashes
	$(BIN)/python -m pip install --quiet pip-tools==7.6.2
	CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --upgrade -o requirements.lock pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --upgrade --all-extras -c requirements.lock -o requirements-dev.lock pyproject.toml

clean: ## Remove everything that can be made again, except pulled models
	rm -rf .venv build dist site .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench scripts -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written after success only: an interrupted set-up is taken up again.
.venv/run.stamp: requirements.lock pyproject.toml scripts/install.py
	@$(PYTHON) scripts/install.py requirements.lock
	@touch $@

# The development lock holds everything the other one holds.
.venv/dev.stamp: requirements-dev.lock requirements.lock pyproject.toml scripts/install.py
	@$(PYTHON) scripts/install.py requirements-dev.lock
	@touch $@ .venv/run.stamp
