# `make demo` and `make test` need nothing else: each makes .venv if it is missing. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 240
INSTALLED := $(VENV)/.installed
# pytest in a process for each core; tests of Ray start processes of their own, one after another.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: demo stop test test-fast soak check observe bench bench-data bench-train bench-autoscale bench-plan bench-edit \
	eval-demo bench-convert bench-detectors bench-gpu bench-offline bench-serve bench-clients chaos chaos-train \
	chaos-evaluate soak-serve nano help

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s%s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## corpora, three training stages, serving and six edits over HTTP, all small (10 minutes on 2 cores)
	@$(BIN)/python jobs/demo.py

stop: $(INSTALLED)  ## end the Ray and the endpoint that `make demo` left running
	@$(BIN)/python jobs/demo.py --stop

test: $(INSTALLED)  ## the whole suite but for soak (at most 15 minutes on 2 idle cores)
	@failed=0; $(SIDE_BY_SIDE) -m 'not ray and not soak' || failed=1; \
	  $(BIN)/python -m pytest -m 'ray and not soak' || failed=1; exit $$failed

test-fast: $(INSTALLED)  ## the tests that need no Ray and take less than 20 seconds each (6 minutes on 2 cores)
	$(SIDE_BY_SIDE) -m 'not ray and not slow and not soak'

soak: $(INSTALLED)  ## the long tests that `make test` leaves out (26 minutes on 2 idle cores)
	$(BIN)/python -m pytest -m soak

check: $(INSTALLED)  ## lint and types: ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/typed/fireedit && cp fireedit/__init__.py $(VENV)/typed/fireedit/
	@for room in platform models jobs serve benchmarks; do ln -sfn ../../../$$room $(VENV)/typed/fireedit/$$room; done
	cd $(VENV)/typed && MYPYPATH=. ../bin/mypy --config-file ../../pyproject.toml -p fireedit

observe: $(INSTALLED)  ## metrics, dashboard, alerts and logs of the service, checked by a real Prometheus (2 minutes)
	@$(BIN)/python benchmarks/observe.py $(ARGS)

bench: bench-data bench-train  ## all benchmarks of the platform

bench-data: $(INSTALLED)  ## input pipeline compared with DataLoader and webdataset (10 minutes on 2 cores)
	@$(BIN)/python benchmarks/data.py

bench-train: $(INSTALLED)  ## Ray Train beside torchrun, the stall of a checkpoint, bytes read a row; ARGS="--only ..."
	@$(BIN)/python benchmarks/train.py $(ARGS)

bench-autoscale: $(INSTALLED)  ## nodes that come for a stage and go after it, on a cluster of one machine (5 minutes)
	@$(BIN)/python benchmarks/autoscale.py $(ARGS)

bench-plan: $(INSTALLED)  ## memory that jobs/plan.py foretells beside that of real workers under ZeRO 1, 2 and 3
	@$(BIN)/python benchmarks/plan.py $(ARGS)

bench-edit: $(INSTALLED)  ## renew results/scenes: success of edits on held-out scenes beside baselines (15 minutes on 2 cores)
	@$(BIN)/python jobs/evaluate.py --editor fireedit=nano --beside copy instruct-pix2pix=nano --set scenes \
	  --splits unseen_seeds,knowledge --cpus 0.5 --replicas 2 --batch 20 --out results/scenes $(ARGS)

eval-demo: $(INSTALLED)  ## every evaluation small, with its commands: sets, sweep, comparison, study (3 minutes on 2 cores)
	@$(BIN)/python jobs/eval_demo.py

bench-detectors: $(INSTALLED)  ## seconds per picture of region detectors, in turn; ARGS="nano sam=FOLDER hf=FOLDER ..."
	@$(BIN)/python benchmarks/detectors.py $(ARGS)

bench-convert: $(INSTALLED)  ## memory that jobs/convert.py takes beside the largest part; ARGS="--width ..."
	@$(BIN)/python benchmarks/convert.py $(ARGS)

bench-gpu: MINUTES = 5
bench-gpu: $(INSTALLED)  ## one card for MINUTES (5): edits with each switch, diffusers', memory, training; ARGS="--device cpu --tiny"
	@$(BIN)/python benchmarks/gpu.py --minutes $(MINUTES) $(ARGS)

bench-offline: $(INSTALLED)  ## 1,000 edits by a job that is killed five times, against an unbroken one; ARGS="--pictures ..."
	@$(BIN)/python benchmarks/offline.py $(ARGS)

bench-serve: $(INSTALLED)  ## the shipped service under load: equal pictures, turns, speed, abuse; ARGS="--only ..."
	@$(BIN)/python benchmarks/serve.py $(ARGS)

bench-clients: $(INSTALLED)  ## equal pictures by every way in, sharp photographs, real clients, a fuzzer; ARGS="--only ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[clients]'
	@$(BIN)/python benchmarks/clients.py $(ARGS)

chaos: MINUTES = 20
chaos: $(INSTALLED)  ## the service under kills for MINUTES (20), then under changes of settings and replicas
	@$(BIN)/python benchmarks/chaos.py --minutes $(MINUTES) $(ARGS)

chaos-train: $(INSTALLED)  ## training under kills of workers, nodes and drivers, bit for bit as unbroken (20 minutes)
	@$(BIN)/python benchmarks/chaos_train.py $(ARGS)

chaos-evaluate: $(INSTALLED)  ## evaluation under kills of replicas and drivers: the same table, nothing painted twice (15 minutes)
	@$(BIN)/python benchmarks/chaos_evaluate.py $(ARGS)

soak-serve: MINUTES = 30
soak-serve: $(INSTALLED)  ## MINUTES (30) of mixed requests; memory, objects and open files must not grow
	@$(BIN)/python benchmarks/chaos.py --only soak --minutes $(MINUTES) $(ARGS)

nano: $(INSTALLED)  ## train the small model from scratch in MINUTES (240) into out/nano; resumes
	@$(BIN)/python jobs/nano.py --minutes $(MINUTES) $(ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV); the first time takes some minutes" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[bench,scenes,test,check]'
	@touch $(INSTALLED)
