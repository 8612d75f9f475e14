# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPAT := .venv-compat
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# The tests never leave this machine. Python keeps what it compiles: the tests start many processes.
OFFLINE := PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

.PHONY: demo test test-slow test-docs test-browser docs-images test-compat lint format docs bench clean

demo: $(VENV)/ready
	$(OFFLINE) $(BIN)/sith-hf demo

test: $(VENV)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --ignore tests/browser --ignore tests/docs -m "not slow"

# Tests that start or kill processes, or run whole recipes.
test-slow: $(VENV)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --ignore tests/browser --ignore tests/docs -m slow

# The code of README and guide, and the notebooks: all of it runs.
test-docs: $(VENV)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile tests/docs

# The explorer in Chromium. Screenshots are left in build/browser.
test-browser: $(VENV)/browser-ready
	$(OFFLINE) OMP_NUM_THREADS=2 $(BIN)/pytest tests/browser

# The pictures of the explorer in the README and the guide.
docs-images: $(VENV)/browser-ready
	$(OFFLINE) OMP_NUM_THREADS=2 $(BIN)/pytest tests/browser/test_tour.py
	cp build/browser/tour/* docs/images/

# Do checkpoints that we write load in the transformers before the one that wrote them? Not part of `make test`.
test-compat: $(VENV)/ready $(COMPAT)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m tests.compat $(COMPAT)/bin/python

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in build/site. A warning is an error, and so is a page that loads anything from another host.
docs: $(VENV)/docs-ready
	$(OFFLINE) NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -f docs/mkdocs/mkdocs.yml

bench: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(OFFLINE) $(BIN)/python benchmarks/svd.py
	$(OFFLINE) $(BIN)/python benchmarks/pursuit.py
	$(OFFLINE) $(BIN)/python benchmarks/encoding.py
	$(OFFLINE) $(BIN)/python benchmarks/inference.py
	$(OFFLINE) $(BIN)/python benchmarks/drift.py
	$(OFFLINE) $(BIN)/python benchmarks/single_words.py
	$(OFFLINE) $(BIN)/python benchmarks/impact.py
	$(OFFLINE) $(BIN)/python benchmarks/text_tower.py --repeats 2
	$(OFFLINE) $(BIN)/python benchmarks/significance.py
	$(OFFLINE) $(BIN)/python benchmarks/image_mean.py
	$(OFFLINE) $(BIN)/python benchmarks/processes.py
	$(OFFLINE) $(BIN)/python benchmarks/checkpoint.py
	$(OFFLINE) $(BIN)/python benchmarks/start_up.py
	$(OFFLINE) $(BIN)/python benchmarks/explore.py

# Torch comes first and alone: unpinned it would bring gigabytes of CUDA.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/docs-ready: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

# Playwright drives Debian's Chromium, which is installed if the machine has none.
$(VENV)/browser-ready: $(VENV)/ready
	command -v chromium || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq chromium; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[browser]"
	touch $@

$(COMPAT)/ready: constraints.txt
	$(PYTHON) -m venv $(COMPAT)
	grep -E '^(torch|numpy)==' constraints.txt > $(COMPAT)/constraints.txt
	$(COMPAT)/bin/pip install --quiet --disable-pip-version-check -c $(COMPAT)/constraints.txt torch
	$(COMPAT)/bin/pip install --quiet --disable-pip-version-check -c $(COMPAT)/constraints.txt \
		"transformers>=4.57,<4.58" numpy pillow safetensors
	touch $@

clean:
	rm -rf $(VENV) $(COMPAT) build dist *.egg-info
