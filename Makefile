# make demo: the whole job on embedded data.   make test: everything CI checks.
# make cifar10: trains, from nothing, the networks for CIFAR-10 that come with edgekit.
# All set up a virtual environment with pinned dependencies first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup demo cifar10 test check clean
.SECONDARY:  # a file between two stages stays

help:
	@echo "make demo   train, prune, export, optimize, quantize and bench a small DenseNet"
	@echo "make cifar10  train the networks for CIFAR-10, in hours; EDGEKIT_DATA says where its images are"
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

# Each stage leaves a file, and a training that was cut off goes on where it was. Students have a thread
# each, since the number of threads changes rounding: make --jobs 2 trains two of them at once.
CIFAR10 := densenet-cifar10 densenet-cifar10-tiny
CIFAR10_FILES := $(foreach name,$(CIFAR10),runs/$(name).onnx runs/$(name).int8.onnx) \
	runs/densenet-cifar10-4bit.int8.onnx
TEACHER := runs/vgg-cifar10-teacher/model.safetensors

cifar10: $(CIFAR10_FILES) | setup
	$(BIN)/edgekit bench $(CIFAR10_FILES) --data cifar10 --format json > runs/cifar10.json
	$(BIN)/edgekit report runs/cifar10.json --output runs/cifar10.md --force

$(TEACHER): | setup
	$(BIN)/edgekit train vgg-cifar10-teacher --output runs/vgg-cifar10-teacher

$(CIFAR10:%=runs/%/model.safetensors): runs/%/model.safetensors: $(TEACHER) | setup
	OMP_NUM_THREADS=1 $(BIN)/edgekit train $* --output runs/$*

runs/densenet-cifar10-4bit/model.safetensors: runs/densenet-cifar10/model.safetensors | setup
	OMP_NUM_THREADS=1 $(BIN)/edgekit train densenet-cifar10-4bit --output runs/densenet-cifar10-4bit

runs/%.onnx: runs/%/model.safetensors | setup
	$(BIN)/edgekit export $< --output $@ --force

runs/%.int8.onnx: runs/%.onnx | setup
	$(BIN)/edgekit quantize $< --calib cifar10 --kernels keep --pack --output $@ --force

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process a core, each of one thread, so that they do not fight for cores.
test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --durations 20

clean:
	rm -rf $(VENV) build dist edgekit-demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
