# `make help` lists the targets. Needs python3 (>= 3.11, with venv), make and git; uses uv where it is on the PATH.
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FIGURES := $(subst _,-,$(basename $(notdir $(wildcard conf/figure/*.yaml))))

# An environment whose interpreter is gone, or that was made for another folder, is built again.
OURS := import ltx, os, sys; sys.exit(not os.path.samefile(ltx.__file__, "src/ltx/__init__.py"))
ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell $(BIN)/python -c '$(OURS)' >/dev/null 2>&1 && echo ours),ours)
$(STAMP): rebuild
endif
endif

.PHONY: help setup run test test-slow lint figures bench clean rebuild
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z%-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP) ## install into .venv; TORCH_INDEX=https://download.pytorch.org/whl/cpu for torch without CUDA

# pip and uv read different variables: uv gets pip's folder of wheels, and looks at every index for the best version.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ltx needs Python 3.11 or later; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -c '$(OURS)' >/dev/null 2>&1 || rm -rf $(VENV)
	@echo "setting up $(VENV): a minute, or as long as the download of torch takes"
	@if command -v uv >/dev/null; then \
	  set -ex; \
	  test -x $(BIN)/python || uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(echo $$PIP_FIND_LINKS | tr ' ' ',')}" uv pip install --quiet --python $(BIN)/python \
	    $(if $(TORCH_INDEX),--index $(TORCH_INDEX) --index-strategy unsafe-best-match) -c constraints.txt -e '.[dev]'; \
	else \
	  set -ex; \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

run: $(STAMP) ## set up and run the main job, ltx run method=imp width=4; ARGS="seeds=5" adds to it
	$(BIN)/ltx run method=imp width=4 $(ARGS)

test: $(STAMP) ## set up and run the tests; ARGS="-k masks" goes to pytest
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: $(VENV)/.ray ## the tests that take minutes; those of Slurm want apt-get install slurm-wlm munge
	$(BIN)/python -m pytest -m slow $(ARGS)

$(VENV)/.ray: $(STAMP)
	if command -v uv >/dev/null; then uv pip install --quiet --python $(BIN)/python -c constraints.txt ray; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ray; fi
	@touch $@

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

figures: $(addprefix figure-,$(FIGURES)) ## redraw every figure and check its claims

figure-%: $(STAMP) ## redraw one figure, NAME in place of %: make figure-imp
	$(BIN)/ltx figure $* $(ARGS)

bench: $(STAMP) ## measure speed against plain loops; ARGS=B1 for one (benchmarks/README.md)
	$(BIN)/python benchmarks/bench.py $(ARGS)

clean: ## remove caches and build products; .venv and outputs/ stay
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
