# make demo              make the environment, install, run the demonstration (make demo ARGS=--quick: under a minute)
# make test              make the environment with the test tools, then run everything that checks the project
# make bench             make the environment with the peers, then measure (25 minutes; make bench ARGS=--quick: a few)
# make docs              make the environment with the test tools, then build the site: docs/_build/html/index.html
# make env, make test-env, make bench-env    only the environment
#
# PYTHON=python3.12      the interpreter to build on; else the first suitable one of those below
# VENV=.venv             where the environment is made, or one that already exists

VENV ?= .venv
PYTHON ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CANDIDATES := $(PYTHON) $(if $(PYTHON),,python3 python3.13 python3.12 python3.11 python3.14 python)
DEMO_STAMP := $(VENV)/.termwise
TEST_STAMP := $(VENV)/.termwise-test
BENCH_STAMP := $(VENV)/.termwise-bench

.PHONY: demo test bench docs env test-env bench-env browser
.DEFAULT_GOAL := demo

demo: env
	$(BIN)/termwise demo $(ARGS)

test: test-env browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

bench: bench-env
	$(BIN)/python -m benchmarks.performance $(ARGS)

# Nothing is fetched while building, or when a page is opened.
docs: test-env
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html $(ARGS)
	@echo "site: docs/_build/html/index.html"

env: $(DEMO_STAMP)
test-env: $(TEST_STAMP)
bench-env: $(BENCH_STAMP)

# A stamp is written last, so that an interrupted installation is taken up again.  Old versions of pip know no
# dependency groups: pip comes first.  An environment that works is kept, and only brought up to date.
define python-environment
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    for python in $(CANDIDATES); do \
	        if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	            echo "making $(VENV) with $$("$$python" --version)"; \
	            exec "$$python" -m venv $(VENV); \
	        fi; \
	    done; \
	    echo "No Python 3.11 or later with its venv module among: $(CANDIDATES)."; \
	    echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3"; \
	    exit 1; \
	} >&2
	$(PIP) install --quiet --upgrade 'pip>=25.1'
endef

$(DEMO_STAMP): pyproject.toml
	$(python-environment)
	$(PIP) install --editable .
	@touch $@

$(TEST_STAMP): pyproject.toml
	$(python-environment)
	$(PIP) install --editable . --group test
	@touch $(DEMO_STAMP) $(BENCH_STAMP) $@

$(BENCH_STAMP): pyproject.toml
	$(python-environment)
	$(PIP) install --editable . --group bench
	@touch $(DEMO_STAMP) $@

# The report is tested in a real browser, and with a font that has Chinese characters.
browser:
	@if command -v chromium >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    { apt-get update -q && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -q -y --no-install-recommends chromium fonts-noto-cjk; } \
	    || echo "apt-get could not install chromium and fonts-noto-cjk: the tests of the report will say so"; \
	else \
	    echo "Chromium is missing, and with it the tests of the report."; \
	    echo "As root: apt-get install chromium fonts-noto-cjk"; \
	fi
