# Everything that a fresh Debian 12 or Ubuntu 24.04 needs is installed by these targets; see README.md.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# How long the long runs take, and what is handed on: make soak HOURS=1000, make test ARGS="-k hooks".
HOURS   ?= inf
MINUTES ?= 10
# They keep both cores busy, and would make others late.
HEAVY = tests/e2e/test_flood.py tests/e2e/test_rabbit.py
ARGS    ?=

# nft, ip and mosquitto live in sbin, which an ordinary user's PATH may lack.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: help install demo test check format figures soak chaos brokers mutants clean

help:
	@echo "make demo      two hosts, a client and a broker on this machine: watch a failover"
	@echo "make test      install what the tests need, and run all of them"
	@echo "make install   make .venv with the project and all of its extras in it"
	@echo "make check     format, lint, types"
	@echo "make format    put the code into its format"
	@echo "make figures   measure what the README says: takeover times and more"
	@echo "make soak      simulated clusters under random faults, for HOURS=$(HOURS) of their time"
	@echo "make brokers   three servers for the bus, one after the other away, for MINUTES=$(MINUTES)"
	@echo "make chaos     real clusters in a lab under random faults, for MINUTES=$(MINUTES)"
	@echo "make mutants   change the core in a thousand places, and see which change no test notices"
	@echo "make clean     remove .venv and what the tools left"

install: $(VENV)/.dev

demo: $(VENV)/.broker
	@$(BIN)/locum demo $(ARGS)

# The second line makes a small Debian in build/, for tests that want a systemd of their own; as root only.
# Three runs. Most tests wait for timers: three at a time. Those of the rim look at the whole machine's namespaces, whose
# numbers the kernel gives out again, and must be alone. The simulation wants both cores. Status 5: ARGS selected none.
test: $(VENV)/.dev
	@scripts/test-packages
	@[ "$$(id -u)" -ne 0 ] || $(BIN)/python -m tests.e2e.machine
	$(BIN)/pytest -n 3 --dist worksteal tests/core tests/e2e tests/chaos $(HEAVY:%=--ignore=%) $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/pytest tests/rim $(HEAVY) $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/pytest tests/sim $(ARGS) || [ $$? -eq 5 ]

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

figures: $(VENV)/.dev
	@scripts/test-packages
	$(BIN)/pytest -m figures -s tests/e2e $(ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m tests.sim.soak --hours $(HOURS) $(ARGS)

chaos: $(VENV)/.dev
	@scripts/test-packages
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(ARGS)

brokers: $(VENV)/.dev
	@scripts/test-packages
	BROKER_MINUTES=$(MINUTES) $(BIN)/pytest -s --timeout 7200 tests/e2e/test_brokers.py $(ARGS)

mutants:
	@scripts/mutants $(PYTHON) $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An empty file for each extra that is installed: what is there is not installed again. dev includes broker.
$(VENV)/.broker $(VENV)/.dev: $(VENV)/.%: pyproject.toml scripts/venv
	@scripts/venv $(PYTHON) $(VENV) $*
	@touch $@ $(VENV)/.broker
