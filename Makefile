# make demo: the whole job on embedded data.   make test: everything CI checks.
# Both set up a virtual environment with pinned dependencies first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test check clean

help:
	@echo "make demo   train, prune, export, optimize, quantize and bench a small DenseNet"
	@echo "make test   lint, types and tests, on the checkout and on an installed wheel"
	@echo "make setup  only the virtual environment $(VENV)"
	@echo "make clean  remove what the other targets made"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	@touch $@

demo: setup
	$(BIN)/edgekit demo --output edgekit-demo --force

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process a core, each of one thread, so that they do not fight for cores.
test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

clean:
	rm -rf $(VENV) build dist edgekit-demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
