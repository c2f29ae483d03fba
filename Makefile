# The two commands of the README: `make demo` and `make test`. Both say what they do and are safe to run again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
ROOT := $(shell id -u | grep -qx 0 && echo yes)
# What the lab needs of Debian on this machine; the rest comes with the virtual environment and the lab's base image.
PACKAGES := python3-venv systemd-container mmdebstrap git iproute2 openssh-client openssh-server xz-utils openssl curl
# One process more than cores: integration tests wait much. A file's tests share what they have started.
PARALLEL := -q -n $(shell expr $$(nproc) + 1) --dist loadfile
LAB := -q -n auto --dist loadfile --no-loadscope-reorder -m "not long" tests/lab
# How often `make steady` runs what.
RUNS := 20
LAB_RUNS := 3
# Only the tests need Alertmanager here: unpacked, not installed, so that no service starts.
TOOLS := $(VENV)/debian
export PATH := $(CURDIR)/$(TOOLS)/usr/bin:$(PATH):/usr/sbin:/sbin

.PHONY: help demo test lint unit mutants integration lab rehearsals steady bench packages clean

help:
	@echo "make demo   as root: boot a fleet on this machine and reboot its nodes, first as a dry run, then for real"
	@echo "make test   run all tests; without root, all but those that need the lab"
	@echo "make mutants  break lines that carry a rule, one by one, and see that a test notices; part of make test"
	@echo "make rehearsals  as root: run the lab's tests that make test leaves out, as they take minutes each"
	@echo "make steady run all tests again and again on a busy machine, and count what fails"
	@echo "make bench  measure a whole reboot run over up to 1,000 nodes, and the lab's runs; compare with the last release"
	@echo "make clean  take the lab down, with what tests that were killed have left, and remove the virtual environment"

packages:
ifeq ($(ROOT),yes)
	@missing=$$(for package in $(PACKAGES); do \
	    dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || echo $$package; done); \
	if [ -n "$$missing" ]; then \
	    echo "== Installing Debian packages:" $$missing; \
	    apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	    case " $$missing " in *openssh-server*) \
	        if [ -d /run/systemd/system ]; then systemctl disable --now ssh; fi;; esac; \
	fi
endif

$(TOOLS)/.unpacked: | $(BIN)/.installed
	@echo "== Unpacking Alertmanager for the tests"
	@mkdir -p $(TOOLS)
	@cd $(TOOLS) && { apt-get download -qq prometheus-alertmanager 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus-alertmanager; }; }
	@dpkg-deb -x $(TOOLS)/prometheus-alertmanager_*.deb $(TOOLS) && rm $(TOOLS)/*.deb
	@touch $@

$(BIN)/.installed: setup.py pyproject.toml lib/setup.py lib/pyproject.toml | packages
	@echo "== Setting up the virtual environment in $(VENV)"
	@python3 -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[tests]' -e ./lib
	@touch $@

demo: $(BIN)/.installed
ifneq ($(ROOT),yes)
	@echo "The lab boots real hosts on this machine and needs root: sudo make demo" >&2; exit 1
else
	@echo "== Booting the lab"
	@$(BIN)/fleet-lab up
	@echo "== Starting services on it"
	@$(BIN)/fleet-lab workload
	@eval "$$($(BIN)/fleet-lab env)"; set -x; \
	    cookbook --dry-run sre.k8s.reboot-nodes --cluster lab -r "kernel 6.1.140" --max-unavailable 2; \
	    cookbook sre.k8s.reboot-nodes --cluster lab -r "kernel 6.1.140" --max-unavailable 2 --unattended
	@echo
	@echo "The lab is still there. To go on playing:"
	@echo "    eval \"\$$($(BIN)/fleet-lab env)\"        # then: cookbook, fleet, kubectl talk to the lab"
	@echo "    $(BIN)/fleet-lab inject --list         # what can be broken; heal mends it"
	@echo "    cookbook sre.k8s.reboot-nodes --help"
	@echo "To tear it down:"
	@echo "    $(BIN)/fleet-lab down"
endif

test: lint unit mutants integration lab

lint: $(BIN)/.installed
	@echo "== Lint: ruff, mypy, import-linter"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@PYTHONPATH=lib $(BIN)/lint-imports --no-cache

unit: $(BIN)/.installed
	@echo "== Unit tests"
	@$(BIN)/python -m pytest $(PARALLEL) tests/unit

integration: $(BIN)/.installed $(TOOLS)/.unpacked
	@echo "== Integration tests: real etcd, kube-apiserver, sshd, Alertmanager"
	@$(BIN)/python -m pytest $(PARALLEL) --no-loadscope-reorder tests/integration

lab: $(BIN)/.installed
ifeq ($(ROOT),yes)
	@echo "== Lab tests: the whole fleet, two at a time if there is room for them"
	@$(BIN)/python -m pytest $(LAB)
else
	@echo "############################################################################"
	@echo "# NOT RUN: the lab tests (tests/lab). They boot real hosts and need root:  #"
	@echo "#     sudo make lab                                                        #"
	@echo "############################################################################"
endif

mutants: $(BIN)/.installed
	@echo "== Mutants: lines that carry a rule are broken, one by one, and a test has to notice"
	@$(BIN)/python tests/mutants/run.py

rehearsals: $(BIN)/.installed
	@echo "== Lab tests that take minutes each"
	@$(BIN)/python -m pytest -q -m long tests/lab

steady: $(BIN)/.installed $(TOOLS)/.unpacked
	@echo "== $(RUNS) runs of unit and integration tests beside busy loops"
	@status=0; \
	$(BIN)/python tests/support/steady.py --runs $(RUNS) -- $(PARALLEL) tests/unit tests/integration || status=1; \
	if [ "$(ROOT)" = yes ]; then \
	    echo "== $(LAB_RUNS) runs of the lab's tests beside busy loops"; \
	    $(BIN)/python tests/support/steady.py --runs $(LAB_RUNS) -- $(LAB) || status=1; \
	else \
	    echo "NOT RUN: the lab's tests, which need root"; \
	fi; \
	exit $$status

bench: $(BIN)/.installed
	@echo "== A whole reboot run over 100, 300 and 1,000 nodes: about half an hour"
	@PYTHONPATH=tests $(BIN)/python -m bench.scale
	@echo "== Parts of it, and runs in the lab"
	@$(BIN)/python -m pytest -q -s tests/bench

clean:
	@if [ -x $(BIN)/fleet-lab ] && [ "$(ROOT)" = yes ]; then \
	    for lab in "$${FLEET_LAB_DIR:-/var/lib/fleet-lab}"{,-tests1}; do FLEET_LAB_DIR=$$lab $(BIN)/fleet-lab down; done; \
	fi
	@rm -rf $(VENV) build lib/build lib/*.egg-info
