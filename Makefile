# Two commands do it all: `make repro` (the whole experiment) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# a file's tests stay in one process: they share what is slow to make
SPREAD := -n logical --maxprocesses 4 --dist loadfile
# not compiled when the environment is built: what no stage imports
UNUSED := /tests?/|/transformers/models/(?!auto/|bert/)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro table tables tables-check test check format coverage gate bench use doctor readme lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, $$($(PYTHON) --version) found: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@# pip would compile all of it, on one core
	@$(BIN)/python -m compileall -qq -j 0 -x '$(UNUSED)' $(VENV)/lib || true
	@touch $@

setup: $(READY)  ## build .venv from requirements.txt when it is missing or older

repro: setup  ## run the whole experiment and print its results; JOBS=4, GPUS=0,1: so many stages at a time
	python -m stages.runs --jobs "$(or $(JOBS),0)" --gpus "$(GPUS)"
	@python -m stages.report --show

tables: setup  ## every system, table and figure of the paper on the demo data: two hours on 2 cores, four on slow ones
	python -m stages.grid run --jobs "$(or $(JOBS),2)"

tables-check: setup  ## make one number of metrics/tables once more: CELL=rsna-convirt-1-linear
	python -m stages.grid check "$(or $(CELL),rsna-convirt-1-linear)" --jobs "$(or $(JOBS),2)"

table: setup  ## print the results that are there
	@python -m stages.report --show

test: setup  ## run the tests, on up to 4 cores
	python -m pytest $(SPREAD)

check: setup  ## what CI runs: format, lint, types, spelling, tests with coverage
	ruff format --check .
	ruff check .
	mypy
	codespell
	python -m pytest $(SPREAD) --cov --cov-report=term-missing:skip-covered

format: setup  ## format the code and mend what the linter can
	ruff format .
	ruff check --fix .

gate: setup  ## does dvc.lock belong to this code and these parameters? needs no data
	@out=$$(dvc repro --allow-missing --dry 2>&1) || true; echo "$$out"; \
	  echo "$$out" | grep -q "Data and pipelines are up to date."

bench: setup  ## measure speeds as ratios against named alternatives
	@for script in bench/[a-z]*.py; do echo "== $$script"; python -m bench.$$(basename $$script .py) || exit 1; done

use: setup  ## take over a profile: make use PROFILE=profiles/paper.yaml
	python -m stages.profile $(if $(PROFILE),"$(PROFILE)")

doctor: setup  ## what data, weights and hardware are there, and what is missing?
	@python -m stages.doctor --params "$(or $(PROFILE),params.yaml)"

readme: setup  ## put the results of metrics/summary.json into the README
	python -m stages.readme

lock:  ## resolve requirements.in into requirements.txt
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/pip install --quiet -r requirements.in
	.venv-lock/bin/pip freeze --all --exclude pip > .venv-lock/frozen
	( echo "# Made by 'make lock' from requirements.in: exact pins of everything. Do not edit."; \
	  sed -E 's/^((nvidia|cuda|triton)[^ ]*)$$/\1 ; sys_platform == "linux"/' .venv-lock/frozen ) > .venv-lock/pins
	mv .venv-lock/pins requirements.txt
	rm -rf .venv-lock

clean:  ## remove resume states, kept features and caches; outputs and replaced parameters stay
	[ ! -d .scratch ] || find .scratch -mindepth 1 -maxdepth 1 ! -name 'params-*.yaml' -exec rm -rf {} +
	rm -rf .tables-check .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
