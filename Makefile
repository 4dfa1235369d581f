# Two commands do everything: `make demo` and `make test`. Each makes .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 240
INSTALLED := $(VENV)/.installed
export RAY_AUTH_MODE ?= disabled

.PHONY: demo stop test soak check bench bench-data bench-edit nano help

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1  /p' Makefile

demo: $(INSTALLED)  ## corpora, three stages, serving and six edits over HTTP, all small (about 10 minutes on 2 cores)
	@$(BIN)/python jobs/demo.py

stop: $(INSTALLED)  ## end what `make demo` left running, and nothing else
	@$(BIN)/python jobs/demo.py --stop

test: $(INSTALLED)  ## the suite, but for what takes minutes a test
	$(BIN)/python -m pytest

soak: $(INSTALLED)  ## the tests that take minutes each
	$(BIN)/python -m pytest -m soak

check: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/typed/fireedit && cp fireedit/__init__.py $(VENV)/typed/fireedit/
	@for room in platform models jobs serve benchmarks; do ln -sfn ../../../$$room $(VENV)/typed/fireedit/$$room; done
	cd $(VENV)/typed && MYPYPATH=. ../bin/mypy --config-file ../../pyproject.toml -p fireedit

bench: bench-data  ## all that is measured

bench-data: $(INSTALLED)  ## our input pipeline beside DataLoader and webdataset (about 10 minutes on 2 cores)
	@$(BIN)/python benchmarks/data.py

bench-edit: $(INSTALLED)  ## edits of held-out scenes, judged beside baselines and ablations; ARGS="--rows ..."
	@$(BIN)/python jobs/benchmark.py $(ARGS)

nano: $(INSTALLED)  ## the small model from nothing in MINUTES (240), into out/nano; goes on where it was
	@$(BIN)/python jobs/nano.py --minutes $(MINUTES) $(ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV); the first time takes some minutes" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[bench,scenes,test,check]'
	@touch $(INSTALLED)
