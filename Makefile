# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests never leave this machine.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

.PHONY: demo test lint format bench clean

demo: $(VENV)/ready
	$(OFFLINE) $(BIN)/sith-hf demo

test: $(VENV)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/ready
	$(OFFLINE) $(BIN)/python benchmarks/svd.py
	$(OFFLINE) $(BIN)/python benchmarks/pursuit.py
	$(OFFLINE) $(BIN)/python benchmarks/encoding.py

# Torch comes first and alone: unpinned it would bring gigabytes of CUDA.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
