# make demo       set up if needed, erase the default concept on the embedded model, show the result
# make setup      create .venv with the locked versions
# make test       set up if needed, lint, run every test that is not slow
# make test-slow  the tests marked slow (the pretrain graph at smoke size; exports with old packages, which it installs)
# make fullsize   all stages on a random checkpoint of Stable Diffusion v1.4's size (24 GiB, about 4 GB of disk)
# make bench      speed, as ratios measured side by side; rewrites docs/benchmarks.md
# make chaos      kill stages 100 times at random moments, start them again, compare
# make fuzz       spoil 1,000 inputs, see how the stages end
# make format     let ruff rewrite the code

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
JOBS := 2
CODE := realera stages pretrain benchmarks tools tests

# the tests find dvc and realera as a user with an activated .venv does
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo setup lint format test test-slow fullsize bench chaos fuzz

help:
	@sed -n 's/^# //p' Makefile

demo: $(STAMP)
	$(BIN)/dvc repro
	@$(BIN)/realera results

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"RealEra needs Python 3.11 or newer, $(PYTHON) is {sys.version.split()[0]}: make setup PYTHON=python3.11")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable '.[dev,dvc,nudenet,pretrain,s3]'
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# files of tests side by side, one thread each: half the time of one after the other
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" --numprocesses $(JOBS) --dist loadfile

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow --numprocesses $(JOBS) --dist loadfile

fullsize: $(STAMP)
	$(BIN)/python tools/run_fullsize.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks --page docs/benchmarks.md --plot docs/benchmarks.svg

chaos: $(STAMP)
	$(BIN)/python tools/chaos.py --kills 100 --seed 0

fuzz: $(STAMP)
	$(BIN)/python -m tools.fuzz --num 1000 --seed 0
