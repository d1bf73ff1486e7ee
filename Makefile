# Two commands do everything on a fresh machine with Python 3.11 or newer, a C++ compiler and make:
#   make quickstart      train a small language model and talk to it
#   make test            run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Extra arguments for pip, e.g. PIP_ARGS="--index-url …" for a mirror or PyTorch's CPU builds.
PIP_ARGS ?=
# A process a core, a thread each: small tensors lose more to threads that wait for each other than they gain.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PYTEST_ARGS ?= --numprocesses auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install quickstart native test test-interop test-browser torture lint format clean

help:
	@echo "make quickstart   build a corpus, train a model on it, measure it, let it write (a few minutes)"
	@echo "make native       build the edge engine's library again after a change of its sources"
	@echo "make test         run the tests"
	@echo "make test-interop exported models in llama.cpp, onnxruntime, transformers and transformers.js (builds llama.cpp: minutes)"
	@echo "make lint         ruff and mypy"
	@echo "make format       let ruff format the code"
	@echo "make test-browser   the chat page in headless Chromium (apt install chromium chromium-driver)"
	@echo "make torture      fault injection and long property tests"
	@echo "make clean        remove the environment and caches"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

# A machine without CMake gets pip's: the install above has used that one too.
CMAKE := $(or $(shell command -v cmake),$(BIN)/cmake)
native: $(INSTALLED)
	command -v $(CMAKE) > /dev/null || $(BIN)/python -m pip install --quiet $(PIP_ARGS) cmake
	$(CMAKE) -S . -B build/native -DSMIDGEN_IN_SOURCE=ON > /dev/null
	$(CMAKE) --build build/native --parallel

quickstart: $(INSTALLED)
	$(BIN)/smidgen quickstart

test: $(INSTALLED)
	$(PYTEST) -m "not torture and not interop and not browser" $(PYTEST_ARGS)

# Other programs, each in an environment of its own; llama-cpp-python is compiled for this machine.
VENVS := .venvs
LLAMA_CPP ?= llama-cpp-python==0.3.36
GENAI ?= onnxruntime-genai==0.18.0
TRANSFORMERS_JS ?= @huggingface/transformers@4.3.1
TRANSFORMERS_4 ?= torch==2.13.0 transformers==4.56.2 accelerate==1.15.0

$(VENVS)/llama.cpp/.installed: Makefile
	$(PYTHON) -m venv $(@D)
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(@D)/bin/python -m pip install --quiet $(PIP_ARGS) $(LLAMA_CPP)
	@touch $@

$(VENVS)/transformers-4/.installed: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(PIP_ARGS) $(TRANSFORMERS_4) sentencepiece
	@touch $@

$(VENVS)/genai/.installed: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(PIP_ARGS) $(GENAI)
	@touch $@

# Without Node its tests are skipped. Its packages' install scripts would fetch what only GPUs and images need.
$(VENVS)/transformers.js/.installed: Makefile
	mkdir -p $(@D)
	if command -v npm > /dev/null; then npm install --silent --no-fund --ignore-scripts --prefix $(@D) $(TRANSFORMERS_JS); fi
	@touch $@

test-interop: $(INSTALLED) $(VENVS)/llama.cpp/.installed $(VENVS)/transformers-4/.installed $(VENVS)/genai/.installed \
		$(VENVS)/transformers.js/.installed
	rm -f benchmarks/results/formats.json
	SMIDGEN_LLAMA_CPP=$(VENVS)/llama.cpp/bin/python SMIDGEN_TRANSFORMERS_4=$(VENVS)/transformers-4/bin/python \
	SMIDGEN_GENAI=$(VENVS)/genai/bin/python SMIDGEN_TRANSFORMERS_JS=$(VENVS)/transformers.js \
	SMIDGEN_INTEROP_RESULTS=benchmarks/results $(PYTEST) -m interop tests/interop --numprocesses 2 --dist loadgroup

torture: $(INSTALLED)
	HYPOTHESIS_PROFILE=explore $(PYTEST) -m "torture or hypothesis" $(PYTEST_ARGS)

test-browser: $(INSTALLED)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt 'selenium>=4.30'
	$(PYTEST) -m browser tests/browser

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VENVS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
