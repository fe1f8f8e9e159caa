# The two commands of the README: make demo, make test. Each installs what it needs into .venv first.
.DEFAULT_GOAL := help
.PHONY: help install demo train test quick lint format board notebook pins clean

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
DEMO := runs/demo/$(shell date +%Y-%m-%d_%H-%M-%S)

help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1 \t/' | expand -t 20

install: .venv/installed ## install artdiff into .venv

demo: install ## on the built-in sample art: train a short baseline, then a small painter, and paint with both
	$(BIN)/python -m artdiff.train experiment=demo hydra.run.dir=$(DEMO)/baseline
	$(BIN)/python -m artdiff.generate ckpt=$(DEMO)/baseline out=$(DEMO)/reconstructed
	$(BIN)/python -m artdiff.train experiment=demo_paint hydra.run.dir=$(DEMO)/painter
	$(BIN)/python -m artdiff.generate ckpt=$(DEMO)/painter n=8 out=$(DEMO)/painted
	@echo
	@echo "Look at $(DEMO)/painted/sheet.png (new pictures, one line per style)"
	@echo "and at $(DEMO)/reconstructed/sheet.png (pictures over what the baseline makes of them), then try:"
	@echo "  $(BIN)/python -m artdiff.train experiment=paint128 data.root=DIR_WITH_YOUR_PICTURES trainer.max_time=00:01:00:00"
	@echo "  $(BIN)/python -m artdiff.generate ckpt=$(DEMO)/painter label=landscape muse=ONE_OF_YOUR_PICTURES out=DIR"
	@echo "  make board"

train: install ## train, with ARGS="data.root=DIR ..." as its settings
	$(BIN)/python -m artdiff.train $(ARGS)

test: .venv/installed-dev ## run the tests
	$(BIN)/python -m pytest $(ARGS)

quick: .venv/installed-dev ## run the tests that take less than three seconds each
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

lint: .venv/installed-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

board: install ## show all runs in TensorBoard
	$(BIN)/tensorboard --logdir runs

notebook: install ## open the notebooks in Jupyter
	$(BIN)/pip install --quiet -c constraints.txt -e '.[notebook]'
	$(BIN)/jupyter lab notebooks

pins: .venv/installed-dev ## resolve constraints.txt anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --upgrade --all-extras --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url pyproject.toml -o constraints.txt

clean: ## remove .venv and the tools' caches; runs and pictures stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"artdiff needs Python 3.11 or newer, found %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip pyproject.toml constraints.txt
	@echo "Installing into .venv: torch alone is several gigabytes, this takes some minutes."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/bin/pip pyproject.toml constraints.txt
	@echo "Installing into .venv: torch alone is several gigabytes, this takes some minutes."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch .venv/installed $@
