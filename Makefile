# `make demo` draws a picture, `make test` runs every test. Both set up all they need in .venv.

SHELL := /bin/bash
BIN := .venv/bin

export PROMPT ?= a red fox in the snow

.PHONY: help setup demo example test test-torch check format figure figures bench gpu docs site wheels constraints clean web web-dev web-pictures

help: ## Say what can be made.
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

setup: ## Install Swell and its built-in models into .venv.
	@.ci/venv embedded

demo: ## Turn PROMPT="…" into a picture through the whole path; ONCE=1 ends after it, PORT=0 takes a free port.
	@.ci/venv embedded
	@$(BIN)/swell demo --prompt "$$PROMPT" $(if $(PORT),--port $(PORT)) $(if $(ONCE),--once)

example: ## Start an app of examples/ and its Swell: make example NAME=portraits.
	@test -n "$(NAME)" || { echo 'say which: make example NAME=…, a folder of examples/' >&2; exit 2; }
	@.ci/venv embedded
	@$(BIN)/python examples/start.py $(NAME)

web: ## Build the web app, if it has changed; needs Node.js 20.19 or newer.
	@python3 web/build.py

web-dev: ## Serve the web app as it is being written; the API is that of SWELL_URL (http://127.0.0.1:8000).
	@cd web && { [ -d node_modules ] || npm ci; } && npm run dev

web-pictures: web ## Take pictures of every page of the web app, to be looked at: .bench/pictures/sheet-*.png.
	@.ci/venv dev
	$(BIN)/python web/pictures.py .bench/pictures

# Tests start hundreds of processes, and each would compile all that it imports where a machine asks
# for no bytecode.
test test-torch check: export PYTHONDONTWRITEBYTECODE :=

test: ## Static checks and every tier of tests; TORCH=1 adds those of `make test-torch`.
	@.ci/venv dev
	@.ci/services & $(if $(TORCH),.ci/venv torch,true) && wait
	@$(BIN)/python tests/gate.py $(if $(TORCH),all,test)

test-torch: ## The tests of what needs torch, in an environment that has it.
	@.ci/venv dev
	@.ci/venv torch
	@$(BIN)/python tests/gate.py torch

check: ## The quick part of `make test`: static checks, unit and conformance tests that are quick and need no server.
	@.ci/venv dev
	@$(BIN)/python tests/gate.py check

format: ## Format the code.
	@.ci/venv dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

figure: ## Measure one figure: make figure NAME=service-throughput.
	@test -n "$(NAME)" || { echo 'say which: make figure NAME=…, from benchmarks/figures.toml' >&2; exit 2; }
	@.ci/venv dev
	@$(BIN)/python benchmarks/figures.py run $(NAME)

figures: ## Measure all figures into benchmarks/results and write docs/benchmarks.md.
	@.ci/venv dev
	$(BIN)/python benchmarks/figures.py all
	$(BIN)/python benchmarks/bench.py page

bench: ## Compare Swell with its peers and write docs/benchmarks.md.
	@.ci/venv dev
	@.ci/services
	$(BIN)/python benchmarks/bench.py run

gpu: ## Measure Swell on a GPU in ten minutes and write docs/gpu.md; GPU="--tiny --device cpu" tries it without one.
	@.ci/gpu $(GPU)

docs: ## Write the reference from the code.
	@.ci/venv dev
	$(BIN)/swell reference settings > docs/reference/settings.md
	$(BIN)/swell reference cli > docs/reference/cli.md
	$(BIN)/python -m swell.server.reference > docs/reference/http.md
	$(BIN)/python -m swell.server.reference metrics > docs/reference/metrics.md
	$(BIN)/python -m swell.providers.reference > docs/reference/providers.md
	$(BIN)/python docs/licences.py
	$(BIN)/python -m swell.server.openapi | node web/schema.js > web/src/lib/api/schema.ts

wheels: ## Build wheels into dist/, and constraints by which pip takes them; needs Node.js 20.19 or newer.
	@.ci/venv embedded
	@.ci/wheels

site: ## Build the documentation's site into .site/html; whatever is dead or doubtful stops it.
	@.ci/venv dev
	@$(BIN)/python docs/build.py

constraints: ## Choose the newest versions of all dependencies; needs uv.
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-emit-index-url --no-emit-package swell --no-emit-package swell-models --no-emit-package torch --no-header --no-annotate --quiet -o constraints.txt

clean: ## Remove what was made here: environment, caches, data.
	rm -rf .site dist web/dist web/node_modules .venv .venv-torch .swell .bench pictures .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
