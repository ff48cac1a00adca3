# The two commands of the README, and what their work consists of. Nothing here needs a GPU; where there is one, it is used.

VENV ?= .venv
MULOCO = $(VENV)/bin/muloco
INSTALLED = $(VENV)/.installed
# yes if there is a bundle for a machine without a network, and no environment
BUNDLED = $(and $(wildcard .gpu/check.py),$(if $(wildcard $(MULOCO)),,yes))

.PHONY: help demo test test-rest test-all docs-tables test-torch test-optimizers paper paper-quick gpu-check gpu-bundle gpu-page install lint types clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## train MuLoCo with two workers for a few minutes; ends with a summary and a loss curve
	$(MULOCO) train config/laptop/muloco.py

PYTEST = $(VENV)/bin/python -m pytest -n 2 --dist loadgroup

test: $(INSTALLED) ## test every behaviour, some 6 minutes on two cores (tests/README.md)
	$(PYTEST) -m "not full"

test-rest: $(INSTALLED) ## run the tests that make test leaves out: full grids, long runs
	$(PYTEST) -m full

test-all: $(INSTALLED) ## run all tests
	$(PYTEST)

# tests that depend on the version of torch
TORCH_TESTS = tests/test_torchtitan_gate.py tests/test_sharding.py tests/test_cli.py tests/model tests/optim tests/pytorch \
	tests/outer tests/training tests/launch tests/commands tests/evals tests/export \
	$(patsubst %,tests/integration/test_%.py,training parallel checkpoints compression evaluation gpa streaming)
TORCH_VENV = .venv-torch-$(VERSION)

test-torch: ## run the tests that depend on torch with another release: make test-torch VERSION=2.11.0 (3 GB)
	@[ -n "$(VERSION)" ] || { echo "which torch? make test-torch VERSION=2.11.0" >&2; exit 2; }
	VENV=$(TORCH_VENV) ./install_dependencies.sh --torch $(VERSION)
	$(TORCH_VENV)/bin/python -m pytest -n 2 --dist loadgroup $(TORCH_TESTS)

# tests of muloco.pytorch that need torch alone
OPTIMIZER_TESTS = tests/pytorch/test_in_torch.py tests/test_sharding.py \
	$(patsubst %,tests/optim/test_%.py,gpa muon muon_sharded newton_schulz normuon options roles rule_table rules)

test-optimizers: ## run the tests of muloco.pytorch with another torch, from 2.9 on, alone: VERSION=2.9.1 (7 GB)
	@[ -n "$(VERSION)" ] || { echo "which torch? make test-optimizers VERSION=2.9.1" >&2; exit 2; }
	python3 -m venv .venv-optimizers-$(VERSION)
	.venv-optimizers-$(VERSION)/bin/pip install torch==$(VERSION) numpy hypothesis pytest pytest-timeout rich
	PYTHONPATH=. .venv-optimizers-$(VERSION)/bin/python -m pytest $(OPTIMIZER_TESTS)

paper: $(INSTALLED) ## check the paper's claims on this machine, two hours or more; goes on where it was stopped
	$(MULOCO) reproduce

paper-quick: $(INSTALLED) ## a small part of it, in a quarter of an hour
	$(MULOCO) reproduce --quick

gpu-check: $(if $(BUNDLED),,$(INSTALLED)) ## run the checks that need a GPU, in 8 minutes; options: GPU_ARGS="--parts small"
	$(if $(BUNDLED),python3 .gpu/check.py,$(MULOCO) check-gpu) $(GPU_ARGS)

gpu-bundle: $(INSTALLED) ## pack into .gpu what gpu-check needs without a network; options: GPU_ARGS="--python 3.12"
	$(VENV)/bin/python -m muloco.gpu_check.bundle $(GPU_ARGS)

gpu-page: $(INSTALLED) ## regenerate docs/untested-on-gpu.md from the records in results/gpu
	$(VENV)/bin/python -m muloco.gpu_check.page

docs-tables: $(INSTALLED) ## regenerate the tables of the documents from code and committed results
	$(VENV)/bin/python docs/tables.py

install: $(INSTALLED) ## make the environment in .venv

lint: $(INSTALLED) ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy muloco

clean: ## remove the environment and the caches of the tools, but no run
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info

# the script leaves the file behind once the tools of the tests are in
$(INSTALLED): pyproject.toml install_dependencies.sh
	VENV=$(VENV) ./install_dependencies.sh
