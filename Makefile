# `make help` lists the targets. Another Python: make train PYTHON=python3.12; more arguments: make train ARGS="seed=1"
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
SCRATCH := $(CURDIR)/$(VENV)/scratch-home

.DEFAULT_GOAL := train
.PHONY: help train test test-e2e test-slow test-trust lint bench clean

help:
	@echo 'make train      install into .venv, and train model=droq_contextual (ARGS="env=sim_lidar seed=1")'
	@echo 'make test       fast tests, on every core'
	@echo 'make test-e2e   whole processes: killed, continued, over the network'
	@echo 'make test-slow  trainings of minutes'
	@echo 'make test-trust searches: a tenth of each; all of it with TRUST_SHARE=1 (an hour or two)'
	@echo 'make lint       ruff'
	@echo 'make bench      speed of an update and an action beside tmrl'
	@echo 'make clean      remove .venv and caches; runs stay'
	@echo 'PYTHON=python3.12 uses another Python for a new .venv'

train: $(VENV)/installed
	$(BIN)/python app/train.py model=droq_contextual $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-e2e: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto -m "e2e and not slow" $(ARGS)

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto -m slow --timeout 3600 $(ARGS)

test-trust: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/trust -n auto -m trust $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: $(VENV)/installed
	$(BIN)/python benchmarks/speed.py $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find app tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml constraints.txt
	$(call install,.)
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(call install,.[test])
	@touch $@

# pip gets a scratch home: the build of tmrl downloads into ~/TmrlData unless that folder exists, and nothing may be
# written into the real home. The settings that pip reads from the real one (index, proxy, passwords) are handed on.
define install
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p "$(SCRATCH)/TmrlData"
	@for file in "$${XDG_CONFIG_HOME:-$$HOME/.config}/pip/pip.conf" "$$HOME/.pip/pip.conf" \
	    "$$HOME/Library/Application Support/pip/pip.conf"; do \
	    if [ -z "$$PIP_CONFIG_FILE" ] && [ -f "$$file" ]; then export PIP_CONFIG_FILE="$$file"; fi; \
	done; \
	if [ -f "$$HOME/.netrc" ]; then export NETRC="$${NETRC:-$$HOME/.netrc}"; fi; \
	echo "installing $(1) into $(VENV) ..."; \
	HOME="$(SCRATCH)" PIP_NO_CACHE_DIR=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints.txt --editable "$(1)"
	@rm -rf "$(SCRATCH)"
endef
