# `make help` says what there is. Every target makes .venv and installs what it needs, once.

PYTHON ?= python3
# the versions that were tested; empty for the newest
CONSTRAINTS ?= constraints.txt
# what is installed stays, unless told otherwise
FAISS ?= $(if $(wildcard .venv/installed-gpu),gpu,cpu)
OUT ?= demo
KILLS ?= 50
BIN := .venv/bin
INSTALLED := .venv/installed-$(FAISS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint fuzz soak audit bench docs clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make .venv and install (FAISS=gpu puts faiss-gpu in the place of faiss-cpu)

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed: give one, as in `make setup PYTHON=python3.12`'; exit 1; }
	@echo 'Installing into .venv; the first time this downloads PyTorch, which takes some minutes.'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	@[ ! -e .venv/installed-gpu ] || $(BIN)/pip uninstall --quiet --yes faiss-gpu
	$(BIN)/pip install --quiet --editable '.[dev]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
ifeq ($(FAISS),gpu)
	$(BIN)/pip uninstall --quiet --yes faiss-cpu
	$(BIN)/pip install --quiet 'faiss-gpu>=1.9'
endif
	@rm -f .venv/installed-*
	@touch $@

demo: setup ## Run the whole method on a synthetic corpus, into OUT=demo (ARGS=--full compares three recipes)
	$(BIN)/ser demo --out $(OUT) $(ARGS)

# models this small gain nothing from a second thread; the processes that finish first take tests of the others
test: setup ## Run the tests, in a process a core and at most 4
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: setup ## Check style, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports

fuzz: setup ## Give every parser 20,000 spoilt files, instead of the 100 of `make test`
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -k garbage

soak: setup ## Kill every stage KILLS=50 times and compare what it ends with
	SER_KILLS=$(KILLS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/killed -k a_killed_stage

audit: setup ## Look up known vulnerabilities of what is installed
	.ci/audit

bench: setup ## Run the benchmarks, each against its peer, and add rows to benchmarks/RESULTS.md
	for benchmark in prediction_head papt_step start_up calibration_simulation \
		padding speaker_bank stage_cost evaluation feature_cache kmeans; do $(BIN)/python benchmarks/$$benchmark.py || exit 1; done

# --quiet would hide warnings from --strict
docs: setup ## Build the documentation into site/; a broken link or reference fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'Open site/index.html; its search needs a server: $(BIN)/python -m http.server --directory site'

clean: ## Remove .venv and caches
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
