# Each verb makes .venv and installs what it needs when that is missing or out of date.
# PYTHON chooses the interpreter of a new .venv, WORKERS the number of test processes.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
OLDEST := .venv-oldest
NEWEST := .venv-newest
BIN := $(VENV)/bin
# gpu.sh runs bench_gpu.py, on another machine.
BENCHMARKS := $(filter-out %/bench_gpu.py,$(sort $(wildcard benchmarks/bench_*.py)))
ACCURACIES := %/bench_pretraining.py %/bench_few_labels.py %/bench_windows.py %/bench_stars.py
TIMED := $(filter-out $(ACCURACIES),$(BENCHMARKS))
SPHINX := $(BIN)/python -m sphinx -W --keep-going -b html

# Figures are drawn to files, also where there is no screen.
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-all test-oldest test-newest check docs bench bench-pretraining \
	bench-few-labels bench-windows bench-stars sentiment-start figures fix lint types wheel docs-quick \
	bench-smoke clean environments

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)$$/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 27

demo: $(VENV)/.installed-examples ## fine-tune BERT on real reviews (examples/plot_quickstart.py)
	$(BIN)/python examples/plot_quickstart.py

# One thread a worker: two workers with two threads each are slower than that on two cores.
test test-all test-oldest test-newest: export OMP_NUM_THREADS := 1
test test-all test-oldest test-newest: export MKL_NUM_THREADS := 1
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
# An expression in ARGS replaces this one.
WITHOUT_SLOW := -m "not slow"
test: $(VENV)/.installed-dev ## tests and doctests, without slow ones; ARGS="-k name" is passed to pytest
	$(BIN)/python $(PYTEST) $(WITHOUT_SLOW) $(ARGS)

test-all: $(VENV)/.installed-dev ## the same with the slow tests
	$(BIN)/python $(PYTEST) $(ARGS)

test-oldest: $(OLDEST)/.installed ## make test with the oldest versions allowed, in .venv-oldest
	$(OLDEST)/bin/python $(PYTEST) $(WITHOUT_SLOW) $(ARGS)

test-newest: $(NEWEST)/bin/python ## all tests with the newest releases, in .venv-newest; not in check
	@echo "installing the newest releases into $(NEWEST); the first time this takes many minutes"
	$(NEWEST)/bin/python -m pip install -qq --disable-pip-version-check --upgrade \
		--upgrade-strategy eager -e ".[test]"
	$(NEWEST)/bin/python -m pip list --disable-pip-version-check
	$(NEWEST)/bin/python $(PYTEST) $(ARGS)

check: environments lint types test-all test-oldest demo wheel docs-quick bench-smoke ## everything that CI runs

docs: $(VENV)/.installed-docs ## build docs/_build/html, with the examples executed
	$(SPHINX) docs docs/_build/html

figures: $(VENV)/.installed-examples ## draw the figures in docs/figures again
	@set -e; for script in docs/figures/[a-z]*.py; do $(BIN)/python "$$script"; done

bench: $(VENV)/.installed-benchmarks ## time and memory against the rivals; ARGS="--rounds 3"
	@set -e; for script in $(TIMED); do \
		echo "== $$script $(ARGS)"; $(BIN)/python "$$script" $(ARGS); done
	$(BIN)/python benchmarks/report.py

bench-pretraining: $(VENV)/.installed-benchmarks ## accuracy with pre-training; takes hours
	$(BIN)/python benchmarks/bench_pretraining.py $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-few-labels: $(VENV)/.installed-benchmarks ## accuracy for 0 to 2,048 labels; takes hours; ARGS="--data FOLDER"
	$(BIN)/python benchmarks/bench_few_labels.py $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-windows: $(VENV)/.installed-benchmarks ## accuracy of windows of long reviews; half an hour
	$(BIN)/python benchmarks/bench_windows.py $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-stars: $(VENV)/.installed-benchmarks ## mistakes of regressors and classifiers with stars; an hour
	$(BIN)/python benchmarks/bench_stars.py $(ARGS)
	$(BIN)/python benchmarks/report.py

sentiment-start: $(VENV)/.installed-examples ## make the weights of skbert/minilm-sentiment, in build/
	$(BIN)/python benchmarks/make_sentiment_start.py --out build/minilm_sentiment.safetensors $(ARGS)

fix: $(VENV)/.installed-dev ## format the code and repair what ruff can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed-dev ## formatting and ruff rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## mypy on skbert/engine, and on a user's script
	$(BIN)/python -m mypy

wheel: $(VENV)/.installed-dev ## build sdist and wheel into dist/ and check what they hold
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python .ci/check_wheel.py dist/*.whl

docs-quick: $(VENV)/.installed-docs ## build docs/_build/quick, examples not executed
	$(SPHINX) -D plot_gallery=0 docs docs/_build/quick

# Two at a time, of one thread each: most of the time, they import. What one prints stays together.
bench-smoke: export OMP_NUM_THREADS := 1
bench-smoke: $(VENV)/.installed-benchmarks ## run every benchmark on a few rows
	@printf '%s\n' $(BENCHMARKS) "benchmarks/bench_predict.py --family electra-small" | \
		xargs -P $(WORKERS) -I SCRIPT sh -c 'printed=$$($(BIN)/python SCRIPT --smoke 2>&1); \
		status=$$?; printf "== SCRIPT --smoke\n%s\n" "$$printed"; exit $$status'
	PYTHON=$(BIN)/python benchmarks/gpu.sh --smoke

clean: ## remove what was built, but no environment
	rm -rf dist docs/_build docs/auto_examples docs/generated
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find skbert tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# Side by side, because pip computes on one core.
environments: ## install what check needs, into .venv and .venv-oldest
	@$(MAKE) --silent $(OLDEST)/.installed & oldest=$$!; \
		$(MAKE) --silent $(foreach extra,dev examples docs benchmarks,$(VENV)/.installed-$(extra)) && wait $$oldest

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(OLDEST)/bin/python:
	$(PYTHON) -m venv $(OLDEST)

$(NEWEST)/bin/python:
	$(PYTHON) -m venv $(NEWEST)

$(OLDEST)/.installed: pyproject.toml .ci/oldest.txt | $(OLDEST)/bin/python
	@echo "installing the oldest versions into $(OLDEST); the first time this takes minutes"
	$(OLDEST)/bin/python -m pip install -qq --disable-pip-version-check -c .ci/oldest.txt -e ".[test]"
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing skbert[$*] into $(VENV); the first time this takes minutes"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@
