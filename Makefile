# flowfeat: `make help` lists the targets. Two commands do everything:
#   make train TASK=vid METHOD=dff     and     make test

TASK ?= vid
METHOD ?= dff
ARGS ?=
DATA_ROOT ?=
RESUME ?=
TABLE ?=
SWEEP ?= interval
SEEDS ?= 1
JOBS ?= 1
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMP := $(VENV)/.flowfeat-installed
CHOICE := task=$(TASK) method=$(METHOD)
DATA := $(if $(DATA_ROOT),"data.root='$(DATA_ROOT)'")

.DEFAULT_GOAL := help
.PHONY: help setup train evaluate predict profile reproduce compare fuse degrade benchmark benchmark-data methods sweep test test-slow lint format clean

help: ## list the targets and their variables
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  TASK=$(TASK) METHOD=$(METHOD) DATA_ROOT=<dataset, empty: embedded synthetic data>'
	@echo '  ARGS="key_frames.interval=5 features=resnet50 flow=flownet_half"  any Hydra overrides'
	@echo '  PYTHON=$(PYTHON)  VENV=$(VENV)  an existing environment is used as it is'

# A new environment gets the versions that were tested together; an existing one keeps its own.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'flowfeat: error: $(PYTHON) is older than Python 3.11 (PYTHON=... names another)' >&2; exit 2; }
	@if test -x $(BIN)/python; then tested=; else \
		echo 'making $(VENV) (torch takes a few minutes)'; $(PYTHON) -m venv $(VENV); tested='-c constraints.txt'; fi; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $$tested -e '.[dev]'
	@touch $@

setup: $(STAMP) ## make the environment and install (the other targets do it when needed)

train: $(STAMP) ## train, evaluate and report: TASK= METHOD= [DATA_ROOT=] [RESUME=<run>] [ARGS=]
	@$(BIN)/flowfeat-train $(CHOICE) $(DATA) $(if $(RESUME),"resume='$(RESUME)'") $(ARGS)

evaluate: $(STAMP) ## evaluate a checkpoint: CKPT= [DATA_ROOT=] [ARGS=]
	@test -n '$(CKPT)' || { echo 'flowfeat: error: CKPT= is missing: make evaluate CKPT=runs/.../last.ckpt' >&2; exit 2; }
	@$(BIN)/flowfeat-evaluate "ckpt='$(CKPT)'" $(DATA) $(ARGS)

predict: $(STAMP) ## run a checkpoint on a video or a frame folder: CKPT= VIDEO= [OUT=] [ARGS=]
	@test -n '$(CKPT)' || { echo 'flowfeat: error: CKPT= is missing: make predict CKPT=runs/.../last.ckpt VIDEO=clip.mp4' >&2; exit 2; }
	@test -n '$(VIDEO)' || { echo 'flowfeat: error: VIDEO= is missing: make predict CKPT=runs/.../last.ckpt VIDEO=clip.mp4' >&2; exit 2; }
	@$(BIN)/flowfeat-predict "ckpt='$(CKPT)'" "video='$(VIDEO)'" $(if $(OUT),"out='$(OUT)'") $(ARGS)

profile: $(STAMP) ## FLOPs, times and speedup of a model: TASK= METHOD= [ARGS=]
	@$(BIN)/flowfeat-profile $(CHOICE) $(ARGS)

reproduce: $(STAMP) ## run a table of the papers and write docs/results: TABLE= [SEEDS=1] [JOBS=1] [DATA_ROOT=]
	@$(BIN)/flowfeat-reproduce $(if $(TABLE),table=$(TABLE)) seeds=$(SEEDS) jobs=$(JOBS) $(DATA) $(ARGS)

compare: $(STAMP) ## lay finished runs side by side: RUNS="runs/a runs/b"
	@$(BIN)/flowfeat-compare $(RUNS)

fuse: $(STAMP) ## fuse the scores of recognition runs: SCORES="a/scores.npz:1 b/scores.npz:1.5"
	@$(BIN)/flowfeat-fuse $(SCORES)

degrade: $(STAMP) ## make compressed frames for TASK=vimeo90k once: DATA_ROOT= [ARGS="data.codec=h264 data.quality=37"]
	@$(BIN)/flowfeat-degrade data=vimeo90k $(DATA) $(ARGS)

benchmark: $(STAMP) ## what a method and its training cost, in one run: TASK= METHOD= [ARGS=]
	@$(BIN)/flowfeat-benchmark $(CHOICE) $(DATA) $(ARGS)

benchmark-data: $(STAMP) ## clips per second of decord, PyAV and OpenCV: [TASK=hmdb51] [DATA_ROOT=] [ARGS=]
	@$(BIN)/flowfeat-benchmark-data task=$(or $(filter hmdb51,$(TASK)),ucf101) method=per_frame $(DATA) $(ARGS)

methods: $(STAMP) ## which methods run on which task, and why others cannot
	@$(BIN)/flowfeat-methods

sweep: $(STAMP) ## sweep a grid, on W&B's server or here: TASK= METHOD= [SWEEP=interval] [DATA_ROOT=] [ARGS=]
	@$(BIN)/flowfeat-sweep $(CHOICE) sweep=$(SWEEP) $(DATA) $(ARGS)

test: $(STAMP) ## run the tests
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 $(ARGS)

test-slow: $(STAMP) ## run the tests that take longer
	@$(BIN)/python -m pytest -q -m slow $(ARGS)

lint: $(STAMP) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove runs and embedded data (not the environment)
	rm -rf runs data/synthetic
