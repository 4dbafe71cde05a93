# Everything a newcomer needs: `make demo` and `make test` set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test notebooks lint fmt types imports check clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

# torch goes first and alone: an installed one is kept by everything that follows.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group test --group lint --group types
	@touch $(STAMP)

demo: $(STAMP)  ## Index, search and rerank the PDFs in cookbook/pdfs, offline, and write an HTML page
	$(BIN)/nemotron-rag demo --out demo_output

test: $(STAMP)  ## Run every test that needs neither a GPU nor the model hub
	$(BIN)/python -m pytest

notebooks: $(STAMP)  ## Run the notebooks in cookbook/ and store what they show
	$(BIN)/python tests/notebooks.py

lint: $(STAMP)  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(STAMP)  ## Apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## Types
	$(BIN)/mypy

imports: $(STAMP)  ## Import rules
	$(BIN)/lint-imports

check: lint types imports test  ## All that CI runs

clean:  ## Remove what was installed and written
	rm -rf $(VENV) demo_output
