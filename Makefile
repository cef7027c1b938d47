# Needs Python 3.11 or newer, git and make. Everything else is installed into .venv.
PYTHON ?= python3
BASE   ?= origin/main
VENV   ?= .venv
# Processes that share the test modules; each wants a core and 2 GB.
JOBS   ?= 2
BIN    := $(if $(filter Windows_NT,$(OS)),$(VENV)/Scripts,$(VENV)/bin)
# DVC runs the stages with the `python` that it finds first.
export PATH := $(abspath $(BIN)):$(PATH)
# Recipes read it from there, quoted: a branch may have any name.
export BASE
PLOTS  := .dvc/plots/offline.html
PYTEST := pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-all coverage web test-web test-photos gpu-check bench docs lint drift review advisories sbom wheel release clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: $(VENV)/installed $(PLOTS) ## install into .venv what the other targets need

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ferdistill needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

$(PLOTS): src/ferdistill/tracking/offline_html.py $(VENV)/installed
	$(BIN)/python -m ferdistill.tracking.offline_html
	$(BIN)/dvc config --local plots.html_template plots/offline.html

repro: setup ## run the pipeline: from the corpora to a calibrated, exported student
	$(BIN)/dvc repro

test: setup ## run the tests
	$(BIN)/python -m $(PYTEST)

test-all: setup ## run the tests, the slow ones too
	$(BIN)/python -m pytest -m "not web and not fetch"

coverage: setup ## run the tests, and name the lines of src/ that none of them reaches
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

web: setup ## bring the libraries of the page of `ferdistill serve` from npm (needs Node.js)
	$(BIN)/python web/build.py

test-web: web ## test the pages in Chromium: the one on the path, or else Playwright's
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[web]'
	test -n "$$CHROMIUM" || command -v chromium || command -v chromium-browser || command -v google-chrome || \
		$(BIN)/playwright install --with-deps chromium
	$(BIN)/python -m pytest -m web tests/test_serve_browser.py tests/attacks/test_pages.py

test-photos: setup ## what models/bundle says of a few photographs, beside public networks (needs a network and Node.js)
	$(BIN)/ferdistill teachers fetch
	$(BIN)/ferdistill detector fetch
	$(BIN)/python benchmarks/photographs.py
	$(BIN)/python -m pytest -m fetch

gpu-check: setup ## what a GPU does with the training loop, and whether its bytes hold: ten minutes at most, on one
	$(BIN)/python benchmarks/gpu.py --json gpu-check.json

bench: repro ## measure speed and memory beside peers, and write docs/performance.md: an hour and a half on a quiet machine
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --no-deps --upgrade --target .bench/packages -r benchmarks/peers.txt
	test -x .bench/fer/bin/python || $(PYTHON) -m venv .bench/fer
	.bench/fer/bin/python -m pip install --disable-pip-version-check --progress-bar off -r benchmarks/peer_runtime.txt
	PYTHONPATH=.bench/packages $(BIN)/python benchmarks --peer .bench/fer/bin/python

docs: setup ## build the documentation into site/; its pages need no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

drift: setup ## do code, params and data still give what dvc.lock and metrics/ say?
	$(BIN)/python .ci/drift.py

review: setup ## what this branch does to results: review/summary.md and review/plots, beside BASE=origin/main
	$(BIN)/python .ci/review.py "$$BASE"

.audit/installed: .ci/audit-tools.txt
	$(PYTHON) -m venv .audit
	$(subst $(VENV),.audit,$(BIN))/python -m pip install --disable-pip-version-check --progress-bar off -r .ci/audit-tools.txt
	@touch $@

advisories: .audit/installed ## is any pinned dependency known to be vulnerable, or could that not be learnt?
	$(subst $(VENV),.audit,$(BIN))/python .ci/advisories.py

sbom: setup .audit/installed ## what is installed, with licences: sbom.cdx.json (CycloneDX)
	$(subst $(VENV),.audit,$(BIN))/python .ci/sbom.py $(BIN)/python sbom.cdx.json

wheel: setup ## the wheel, into dist/; its light runtime is installed into an empty environment, and used there
	$(BIN)/python .ci/wheel.py runtime

release: web .audit/installed ## date the version in the changelog, build and check wheel, SBOM and checksums, and tag HEAD
	$(BIN)/python .ci/release.py $(subst $(VENV),.audit,$(BIN))/python

clean: ## remove the environment and caches, never data or results
	rm -rf $(VENV) .audit .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis
