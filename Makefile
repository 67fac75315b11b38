# Every target says what it does behind "##"; `make` alone lists them.
# make setup is the one way in: python3.11, git and make are enough, all else comes as pinned wheels.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
export DARKROOM_HOME ?= $(CURDIR)/.darkroom
export PYTHONDONTWRITEBYTECODE :=
PROTOS := $(shell cd proto && find darkroom -name '*.proto' | sort)
SERVICE_PROTOS := $(filter %_service.proto,$(PROTOS))
GENERATED := services
SUITE ?= engine
DEVICE ?= cuda

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; Darkroom needs Python 3.11 (set PYTHON=...)"; exit 1; }
	@echo "installing pinned packages into $(VENV) (a few minutes, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[runner,gpu,dev]'
	@touch $(STAMP)

setup: $(STAMP)  ## create .venv with the pinned dependencies

run: setup  ## one prompt through the whole platform on this machine: picture, reasons, times, bill
	@$(BIN)/darkroom demo

test: setup  ## every test, with no GPU, no cluster, no network
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: setup  ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

proto: setup  ## generate services/darkroom/api from proto/ (GENERATED=dir to write elsewhere); what stays the same is not touched
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && cd proto \
	  && $(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	    --python_out=$$fresh --mypy_out=quiet:$$fresh $(PROTOS) \
	  && $(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	    --grpc_python_out=$$fresh --mypy_grpc_out=quiet:$$fresh $(SERVICE_PROTOS) \
	  && find $$fresh/darkroom/api -type d -exec touch {}/__init__.py \; \
	  && mkdir -p $(abspath $(GENERATED))/darkroom/api && cd $(abspath $(GENERATED))/darkroom/api \
	  && (cd $$fresh/darkroom/api && find . -type f) | while read -r file; do \
	    cmp -s "$$fresh/darkroom/api/$$file" "$$file" || { mkdir -p "$${file%/*}" \
	      && cp "$$fresh/darkroom/api/$$file" "$$file.new" && mv "$$file.new" "$$file" || exit 1; }; done \
	  && find . -type f ! -path '*/__pycache__/*' | while read -r file; do \
	    test -e "$$fresh/darkroom/api/$$file" || rm "$$file"; done

proto-check: setup  ## lint the protos, refuse breaking changes, prove the generated code fresh
	@$(BIN)/buf lint proto
	@$(BIN)/buf breaking proto --against proto/baseline.binpb
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(MAKE) --no-print-directory proto GENERATED=$$fresh \
	  && diff -r --exclude=__pycache__ $$fresh/darkroom/api services/darkroom/api \
	  || { echo "services/darkroom/api is not what proto/ says: run make proto"; exit 1; }

proto-baseline: setup  ## accept today's protos as the baseline of make proto-check (at a release)
	@$(BIN)/buf build proto -o proto/baseline.binpb

pocket-image: setup  ## train pocket-image from scratch (about an hour on 2 cores)
	@$(BIN)/python -m darkroom.model_runner.pocket.train --out services/darkroom/models/pocket-image

bench: setup  ## every benchmark in its quick form
	@for file in $(filter-out benchmarks/gpu_check.py,$(wildcard benchmarks/[a-z]*.py)); do $(BIN)/python $$file --quick --json $(DARKROOM_HOME)/$$(basename $$file .py).json || exit 1; done

gpu-check:  ## SUITE=engine|models|kernels on this machine's GPU, 9 minutes at most (PYTHON=... with torch and CUDA; DEVICE=cpu QUICK=--quick)
	@PYTHONPATH=services:kernels$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) benchmarks/gpu_check.py --suite $(SUITE) --device $(DEVICE) $(QUICK) \
	  --json benchmarks/results/gpu_check_$(SUITE).json

image: ## build the two container images with buildah (as root)
	buildah --storage-driver vfs bud --isolation chroot --target control -t darkroom-control .
	buildah --storage-driver vfs bud --isolation chroot --target runner -t darkroom-runner .

helm-check: setup  ## render and validate the chart
	@$(BIN)/python -m pytest -q tests/helm

clean:  ## remove the virtual environment and this checkout's state
	rm -rf $(VENV) .darkroom build *.egg-info

.PHONY: help setup run test lint proto proto-check proto-baseline pocket-image bench gpu-check image helm-check clean
