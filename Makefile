# Everything that a fresh Debian 12 or Ubuntu 24.04 needs is installed by these targets; see README.md.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help install demo test check format clean

help:
	@echo "make demo     two hosts, a client and a broker on this machine: watch a failover"
	@echo "make test     install what the tests need, and run all of them"
	@echo "make install  make .venv with the project in it"
	@echo "make check    format, lint, types"
	@echo "make clean    remove .venv and what the tools left"
