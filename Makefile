# Everything a newcomer needs: `make demo` and `make test` set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
PROJECTS := pyproject.toml starters/pyproject.toml constraints.txt
DEMO := $(VENV)/.demo
ALL := $(VENV)/.all

.PHONY: help demo test test-fast rehearsal quality notebooks docs dist lint fmt types imports check clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

# torch goes first and alone: an installed one is kept by everything that follows.
$(DEMO): $(PROJECTS)
	@echo "1/3 Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@echo "2/3 Installing PyTorch: some hundred megabytes at the first time, with CUDA some gigabytes"
	@$(PIP) torch
	@echo "3/3 Installing nemotron-rag and the starter models"
	@$(PIP) --editable ./starters --editable ".[demo]"
	@touch $(DEMO)

$(ALL): $(DEMO)
	$(PIP) --editable ".[all]" --group test --group lint --group types --group docs
	@touch $(ALL)

demo: $(DEMO)  ## Index, search and rerank the PDFs in cookbook/pdfs, offline, and write an HTML page
	$(BIN)/nemotron-rag demo --out demo_output

test: $(ALL)  ## Run every test that needs neither a GPU nor the model hub, on up to four cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not cluster and not gpu and not hub"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "cluster and not gpu and not hub"

test-fast: $(ALL)  ## Run the quick tests of the core and of the contract of adapters, on up to four cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow and not gpu and not hub" \
		tests/shared tests/properties tests/packaging tests/integrations/test_adapters.py

rehearsal: $(ALL)  ## Run all that benchmarks/gpu_day.sh runs on a GPU, at toy size on the CPU
	rm -rf .benchmarks/rehearsal
	PYTHON=$(abspath $(BIN))/python benchmarks/gpu_day.sh --dry-run --out .benchmarks/rehearsal

QUALITY := benchmarks/quality
OPM := https://raw.githubusercontent.com/docugami/KG-RAG-datasets/main/us-fed-agency-reports/data/v1/docs/2018-annual-performance-report.pdf
GAZETTE := https://raw.githubusercontent.com/QuivrHQ/MegaParse/main/libs/megaparse/tests/pdf/ocr/0168126.pdf
TORNADOES := https://raw.githubusercontent.com/aws-samples/amazon-bedrock-samples/main/rag/managed-knowledge-bases/synthetic_dataset/tornadoes_report.pdf
SURVEY := https://raw.githubusercontent.com/MartinThoma/LaTeX-examples/master/presentations/Gute-Frage-Schluesselqualifikation/LaTeX/Gute-Frage-Umfragedesign.pdf

quality: $(DEMO)  ## Evaluate the starters on 43 judged queries; fetches four PDFs
	@cd $(QUALITY)/documents && for each in crs-tornadoes.pdf=$(TORNADOES) gute-frage-de.pdf=$(SURVEY) \
	  opm-2018-performance.pdf=$(OPM) gazette-philippe-le-bon-fr.pdf=$(GAZETTE); do \
	  test -f $${each%%=*} || curl -fsSL -o $${each%%=*} $${each#*=} || exit 1; done && sha256sum --quiet --ignore-missing -c SHA256SUMS
	$(BIN)/nemotron-rag evaluate $(QUALITY)/queries.csv --pages cookbook/pdfs --pages $(QUALITY)/documents \
	  --embedder starter-embed-vl --modality text --mode dense --mode hybrid

notebooks: $(ALL)  ## Run the notebooks in cookbook/ and store what they show
	$(BIN)/python tests/support/notebooks.py

docs: $(ALL)  ## Build the docs site in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -E -b html docs docs/_build/html

dist: $(ALL)  ## Build, check and try the wheels and sdists of both distributions
	$(PIP) --group release
	PYTHON=$(abspath $(BIN))/python .ci/dist

lint: $(ALL)  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(ALL)  ## Apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(ALL)  ## Types
	$(BIN)/mypy

imports: $(ALL)  ## Import rules
	$(BIN)/lint-imports

check: lint types imports test rehearsal docs  ## All that CI runs

clean:  ## Remove what was installed and written
	rm -rf $(VENV) demo_output
