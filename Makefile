# `make demo` and `make test` each work alone on a fresh clone; they are quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: screenshots docs reference fuzz demo test lint types contracts format corpus pages pictures clean

COMPILED := initlint/measure/_moments.c initlint/measure/_moments_kernel.h initlint/probe/_outputs.c

$(VENV)/.base: pyproject.toml constraints.txt $(COMPILED)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	$(BIN)/python -m compileall -q initlint rules  # as an installer does: imports need no compiler
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) torch
	$(PIP) -e ".[dev]"
	touch $@

demo: $(VENV)/.base ## lint a deep network that cannot train, then its healthy twin
	@mkdir -p build
	@$(BIN)/python -m fixtures.onnx_models bad_deep_relu_xavier build/bad_deep_relu_xavier.onnx
	@$(BIN)/python -m fixtures.onnx_models good_deep_relu_he build/good_deep_relu_he.onnx
	@$(BIN)/initlint build/bad_deep_relu_xavier.onnx --exit-zero
	@$(BIN)/initlint build/good_deep_relu_he.onnx

test: $(VENV)/.dev ## every test
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

TIME ?= 60
FUZZED := onnx safetensors pickle exported index command

fuzz: $(VENV)/.dev ## mutate files for every reader and for the command, TIME seconds in all; needs atheris
	@for target in $(FUZZED); do \
	  $(BIN)/python fuzz/fuzz.py $$target -timeout=20 -rss_limit_mb=2048 \
	    -max_total_time=$$(( $(TIME) / $(words $(FUZZED)) )) || exit 1; \
	done

pages: reference ## docs/rules: a page per rule, from the docstrings; and the pages of reference
	$(BIN)/initlint rules --format markdown --output docs/rules

pictures: $(VENV)/.base ## the charts on those pages and on the page about theory; a run as a picture
	$(BIN)/python docs/pictures.py docs/rules/pictures
	$(BIN)/python docs/theory_pictures.py docs/pictures
	$(BIN)/python docs/terminal_picture.py docs/pictures/run.svg

screenshots: $(VENV)/.dev ## the HTML report in a browser; needs Chromium
	$(BIN)/python docs/report_pictures.py docs/pictures

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(VENV)/.base ## docs/reference: options, configuration and schema, from the program
	$(BIN)/python docs/reference.py docs/reference

docs: $(VENV)/.dev ## the site, in build/site
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build
