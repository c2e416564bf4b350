# Everything runs in $(VENV), which the first call builds from the hashed lock of the Python found.

VENV ?= .venv
# A Python to use instead of the first of python3.11, python3.10, python3 and python that fits.
PYTHON ?=
# Which lock: empty = atari, box2d, dev, mujoco, video; `all` = every extra but CUDA; `gpu` = `all` and CUDA.
EXTRAS ?=
# Flags appended to the program that the target runs.
ARGS ?=

SHELL := /bin/sh
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKS := $(wildcard requirements/py3*.txt)
QUIET := TF_CPP_MIN_LOG_LEVEL=3 GRPC_VERBOSITY=ERROR GLOG_minloglevel=2 MPLBACKEND=Agg

# Prints the Python to use, or says what to install. A candidate counts when it runs (the shim of a
# version manager may not), is 3.11 or 3.10 on Linux x86_64 and can make virtual environments.
define FIND_PYTHON
probe='import ensurepip, platform, sys, venv; \
  sys.exit(sys.version_info[:2] not in ((3, 11), (3, 10)) \
    or (platform.system(), platform.machine()) != ("Linux", "x86_64") or sys.maxsize < 2**32)'; \
seen=''; \
try() { if "$$1" -c "$$probe" >/dev/null 2>&1; then echo "$$1"; exit 0; fi; }; \
if [ -n "$(PYTHON)" ]; then \
  try "$(PYTHON)"; \
  seen="$(PYTHON) is $$("$(PYTHON)" -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null \
    || echo 'not a Python that runs')"; \
else \
  IFS=:; \
  for name in python3.11 python3.10 python3 python; do \
    for folder in $$PATH; do \
      if [ -x "$$folder/$$name" ]; then try "$$folder/$$name"; fi; \
    done; \
  done; \
  seen='none was found on PATH'; \
fi; \
echo "tfrl needs Python 3.11 or 3.10 with its venv module, on Linux x86_64, and $$seen:" \
  "install Python 3.11 (Debian and Ubuntu: python3.11 and python3.11-venv)" \
  "or name one with make PYTHON=/path/to/python3.11." >&2; \
exit 1
endef

# What is installed: a change of lock, of EXTRAS or of a PYTHON asked for builds it anew.
WANTED := $(or $(EXTRAS),default)
ifneq ($(wildcard $(STAMP)),)
  ifneq ($(shell cat $(STAMP)),$(WANTED))
    $(STAMP): FORCE
  endif
  ifneq ($(PYTHON),)
    VERSION := import sys; print(sys.version_info[:2])
    ifneq ($(shell "$(PYTHON)" -c '$(VERSION)' 2>&1),$(shell $(BIN)/python -c '$(VERSION)'))
      $(STAMP): FORCE
    endif
  endif
endif

.DEFAULT_GOAL := help
.PHONY: FORCE help install train test lint bench clean

help:
	@echo 'make train    installs, then solves CartPole-v1 with DQN; ARGS="--seed=1" adds flags'
	@echo 'make test     runs the tests that are not slow; ARGS="-k replay" selects'
	@echo 'make lint     ruff: rules and format'
	@echo 'make bench    times tfrl, and a rival where one is named; ARGS="--help" lists the flags'
	@echo 'make install  builds $(VENV) alone; EXTRAS=all adds ray, envpool, optuna; EXTRAS=gpu adds CUDA too'
	@echo 'make clean    removes $(VENV) and caches; runs stay'
	@echo 'PYTHON=/path/to/python3.11 names the Python to use; it must be 3.11 or 3.10.'

install: $(STAMP)

$(STAMP): $(LOCKS) setup.py pyproject.toml
	@set -e; \
	python="$$($(FIND_PYTHON))"; \
	lock="requirements/py$$("$$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')$(EXTRAS:%=-%).txt"; \
	if [ ! -f "$$lock" ]; then echo "There is no $$lock: EXTRAS is empty, all or gpu." >&2; exit 1; fi; \
	echo "Installing $$lock into $(VENV) with $$python; this happens once"; \
	rm -rf "$(VENV)"; \
	"$$python" -m venv "$(VENV)"; \
	pip="$(BIN)/python -m pip --disable-pip-version-check"; \
	$$pip install --quiet --no-deps --require-hashes --only-binary=:all: -r "$$lock"; \
	$$pip install --quiet --no-build-isolation --no-deps -e .; \
	$$pip check; \
	echo $(WANTED) > $@

train: $(STAMP)
	$(BIN)/python launchers/run.py --algo=dqn --flagfile=configs/dqn/cartpole.flags $(ARGS)

test: $(STAMP)
	$(QUIET) $(BIN)/python -m pytest tests -m "not slow" -q -n 2 --dist loadfile --durations=10 --durations-min=1 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(STAMP)
	$(BIN)/python launchers/benchmark.py $(ARGS)

clean:
	rm -rf "$(VENV)" build dist *.egg-info .pytest_cache .ruff_cache
	find tfrl launchers tests requirements -name __pycache__ -type d -prune -exec rm -rf {} +
