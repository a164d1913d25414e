# `make demo` and `make test` set everything up from nothing but Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= 2
EXPERIMENTS ?= demo real real_with_guangzhou contexts new_hospital

export PYTHONDONTWRITEBYTECODE :=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test tests slow tutorials soak lint types imports results clean

demo: $(INSTALLED)  ## three synthetic hospitals train one model; prints the table and the paths
	$(BIN)/python -m simulations.run --config configs/demo.yaml $(if $(wildcard runs/demo/config.yaml),--resume)

test: lint types imports tests  ## lint, types, import contract, tests

tests: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(if $(MARKED),-m '$(MARKED)')

slow:  ## real processes, kernels compiled, models exported: minutes more
	$(MAKE) tests MARKED=slow

tutorials: $(INSTALLED)  ## types what docs/tutorials say, with small hospitals (eight minutes)
	$(BIN)/python -m pytest -q -m tutorial tests/test_tutorials.py

soak: $(INSTALLED)  ## 200 rounds with random kills and cut links (two hours); ACM_FED_SOAK_ROUNDS=20 for fewer
	$(BIN)/python -m pytest -q -rP -m soak

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

results: $(INSTALLED)  ## the tables of docs/results (hours on 2 cores; goes on where it stopped, and runs nothing twice)
	$(BIN)/python -m simulations.tables --jobs 2 $(EXPERIMENTS)
	$(BIN)/python -m simulations.comparing

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python >= 3.11, got $$($(PYTHON) --version 2>&1): run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:  ## removes the environment and caches; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
