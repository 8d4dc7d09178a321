# make demo   install, then search a trained CNN on real images under a latency budget
# make test   install, then run every test
# make test-executorch   tests of executorch, which is installed beside the environment
# make test-serving      tests of exports in MLServer and Triton, which live in environments of their own
# make fleet  install, then run a whole fleet on this machine: servers, coordinator, workers, until Ctrl-C
# make soak   install, then 200 random faults over 1,000 trials of a fleet on this machine; takes about ten minutes
# make bare   one archive in dist/ that runs the evaluators on a machine with only torch and NumPy
# make check  ruff, mypy --strict and the import contract

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR ?= .paretune
RUNTIMES := inductor,onnxruntime,openvino
EXECUTORCH_TESTS := tests/evaluators/test_executorch.py tests/security/test_damaged.py

.PHONY: demo test test-executorch test-serving check bench bare fleet soak clean

demo: $(VENV)/.runtimes
	$(BIN)/paretune search examples/images/workload.py:workload --home $(HOME_DIR) \
	  --latency-budget 5ms --max-accuracy-drop 0.01 --trials 40 --timeout 4m

test: $(VENV)/.dev
	$(BIN)/python -m pytest

# Beside the environment, not in it: the space of every search would have one backend more. Its wheel asks for twenty
# packages that nothing here imports.
test-executorch: $(VENV)/.executorch
	PYTHONPATH=$(CURDIR)/$(VENV)/executorch $(BIN)/python -m pytest -k executorch $(EXECUTORCH_TESTS)

# Each beside the environment: both pin what it has in other versions. Triton is the server within nvidia-pytriton, whose
# Python backend takes NumPy 1 only; of that package nothing else is used.
test-serving: $(VENV)/.serving
	$(BIN)/python -m pytest tests/end_to_end/test_exported.py

WORKERS ?= 1

fleet: $(VENV)/.fleet
	$(BIN)/python -m scripts.fleet --home .fleet --workers $(WORKERS)

soak: $(VENV)/.dev
	$(BIN)/python -m tests.faults.soak --trials 1000 --faults 200 --seed 1

bare: $(VENV)/.runtimes
	$(BIN)/python scripts/make_bare.py dist

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "paretune needs Python 3.11, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check torch==2.13.0
	@touch $@

$(VENV)/.runtimes: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(RUNTIMES)]'
	@touch $@

$(VENV)/.fleet: $(VENV)/.runtimes
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(RUNTIMES),fleet,servers]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtimes
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[all,coreml,energy,dev]'
	@touch $@

$(VENV)/.executorch: $(VENV)/.dev
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps --upgrade \
	  --target $(VENV)/executorch executorch ruamel.yaml
	@touch $@

$(VENV)/.serving: $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)/mlserver
	$(VENV)/mlserver/bin/python -m pip install -qq --disable-pip-version-check \
	  mlserver==1.7.1 'tritonclient[grpc]==2.73.0' onnxruntime==1.32.0
	$(PYTHON) -m venv $(VENV)/triton
	$(VENV)/triton/bin/python -m pip install -qq --disable-pip-version-check \
	  numpy==1.26.4 onnxruntime==1.32.0 openvino==2026.4.1
	$(VENV)/triton/bin/python -m pip install -qq --disable-pip-version-check --no-deps nvidia-pytriton==0.7.0
	@touch $@

clean:
	rm -rf $(VENV) .paretune .fleet .mypy_cache .ruff_cache .pytest_cache
