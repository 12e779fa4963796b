# setup  quickstart  test  test-slow  lint  format  results  compile-constraints
# peers
#
# Everything runs in .venv, which `make setup` fills from pyproject.toml and
# constraints.txt, and fills again when one of them has changed.
#   make quickstart ARGS="--config.cl.name=online_ewc --workdir=runs/ewc"
#   make test ARGS="-k online_ewc" WORKERS=4
#   make results    # redraws the results in README.md from results/
#   make setup EXTRAS=test,cuda12 PYTHON=python3.12
#   make peers      # TRL in .venv-peers, for `python -m jax_cl.bench grpo`

BIN := .venv/bin
EXTRAS ?= test
STAMP := .venv/.setup-$(EXTRAS)
WORKERS ?= 2
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import ensurepip, sys; \
    sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
  2>/dev/null && echo $$p && break; done)

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1  # else it asks for newer versions
# Containers often set it; every start would then compile what it imports anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup quickstart test unit test-slow lint format results \
  compile-constraints peers

setup: $(STAMP)

# A pip of today resolves three times as fast as one bundled with 3.11, and
# bytecode is left to the first import: most of 3 GB is never imported.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo \
	  "no Python 3.11, 3.12 or 3.13 with venv on the path; name one: make $(MAKECMDGOALS) PYTHON=..." \
	  >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet pip==26.3
	$(BIN)/python -m pip install --quiet --no-compile \
	  --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

quickstart: $(STAMP)
	$(BIN)/python -m jax_cl.main --config=configs/quickstart.py $(ARGS)

test: lint unit

unit: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow" $(ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(STAMP)
	$(BIN)/python tools/results.py

compile-constraints: $(STAMP)
	$(BIN)/python tools/compile_constraints.py

PEERS := .venv-peers

peers: $(PEERS)/.setup

# Apart from .venv: TRL brings other versions of what we use.
$(PEERS)/.setup: constraints-peers.txt
	@test -n "$(PYTHON)" || { echo \
	  "no Python 3.11, 3.12 or 3.13 with venv on the path; name one: make peers PYTHON=..." \
	  >&2; exit 1; }
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet pip==26.3
	$(PEERS)/bin/python -m pip install --quiet --no-compile \
	  --constraint constraints-peers.txt trl torch
	@touch $@
