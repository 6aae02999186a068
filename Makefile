# PYTHON=python3.12   the interpreter to build the environment from
# TORCH_INDEX=URL     the package index to take torch from
# LESSON=06           the lesson(s) for `make course` and `make run`
# JOBS=2              test processes
# NEWEST=1            newest releases within pyproject.toml's ranges instead of the lock

VENV ?= .venv
JOBS ?= 2

# The lessons' tensors are small: on a busy machine several threads wait for each other, minutes long.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

ifeq ($(OS),Windows_NT)
  PY := $(VENV)/Scripts/python.exe
  PYTHON ?= python
else
  PY := $(VENV)/bin/python
  # The first that runs, is a tested version and can make environments; else let install.py explain.
  TESTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
  PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
    $$p -c '$(TESTED)' >/dev/null 2>&1 && { echo $$p; exit; }; done; echo python3)
endif
endif

# $(call or_say,advice): what a failing step ends with.
or_say = || { printf '\n%s\n' '$(1)' >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help install lab test lint format course run sync clean

help: ## list what there is
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1 - \2/p' Makefile | \
	  while IFS='-' read -r name words; do printf '%-14s%s\n' "$$name" "$$words"; done
	@echo; echo "Variables, as in make lab PYTHON=python3.12:"
	@sed -n '/^$$/q;s/^# \{0,1\}/  /p' Makefile

install: ## make the environment, or do nothing if it is current
	@command -v $(PYTHON) >/dev/null 2>&1 $(call or_say,No Python found as "$(PYTHON)". \
	  Install Python 3.11 to 3.13 and name it: make lab PYTHON=python3.12)
	@$(PYTHON) tools/install.py --venv "$(VENV)" \
	  $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)") $(if $(NEWEST),--newest)

lab: install ## install, then open JupyterLab on the first lesson
	@echo "JupyterLab opens in your browser; Ctrl-C here ends it."
	@$(PY) -m jupyterlab notebooks/00_start_here.ipynb $(LAB_OPTIONS) $(call or_say,\
	  JupyterLab did not start. Check the environment: $(PY) -m tfm_lib check)

test: lint ## install, then the linter, the unit tests and every notebook
	@echo "== unit tests and every notebook =="
	@$(PY) -m pytest -n $(JOBS) $(call or_say,Tests failed: pytest names them above. \
	  One alone: $(PY) -m pytest tests/attention or notebooks/06_*.ipynb. \
	  A lesson whose outputs changed on purpose: make run LESSON=06)

lint: install ## ruff and mypy alone
	@echo "== ruff =="
	@$(PY) -m ruff check $(call or_say,ruff found the problems above; make format mends most.)
	@$(PY) -m ruff format --check $(call or_say,Formatting differs; make format rewrites it.)
	@echo "== mypy =="
	@$(PY) -m mypy $(call or_say,mypy found the problems above: types that do not fit.)

format: install ## let ruff mend and format
	@$(PY) -m ruff check --fix --quiet; $(PY) -m ruff format

course: install ## run every lesson without a browser: seconds, memory, verdict
	@$(PY) -m tools.course $(LESSON)

run: install ## execute a lesson in place and clean it: make run LESSON=06
	@test -n "$(LESSON)" $(call or_say,Name the lesson: make run LESSON=06)
	@$(PY) -m tools.lessons run $(LESSON)

sync: install ## tagged cells from the library, exercises from their declarations
	@$(PY) -m tools.lessons sync

clean: ## remove the environment and caches
	rm -rf "$(VENV)" .pytest_cache .ruff_cache .mypy_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
