# The two commands of the README, and what their work consists of. Nothing here needs a GPU; where there is one, it is used.

VENV ?= .venv
MULOCO = $(VENV)/bin/muloco
INSTALLED = $(VENV)/.installed

.PHONY: help demo test paper paper-quick install lint types clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## train MuLoCo with two workers for a few minutes; ends with a summary and a loss curve
	$(MULOCO) train config/laptop/muloco.py

test: $(INSTALLED) ## run all tests, two at a time
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup

paper: $(INSTALLED) ## check the paper's claims on this machine, two hours or more; goes on where it was stopped
	$(MULOCO) paper

paper-quick: $(INSTALLED) ## a small part of it, in a quarter of an hour
	$(MULOCO) paper --quick

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
