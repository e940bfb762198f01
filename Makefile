# mailflow: `make demo` to see it, `make test` and `make check` before a change is done. Each makes what it needs.
SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=
VENV := .venv
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# apt_install PACKAGE...: as root, quietly, no questions, and no server is started (policy-rc.d, removed again if it is
# ours). Returns 1 without a word where this user or this system cannot.
define APT
apt_install() {
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
	local policy=/usr/sbin/policy-rc.d ours= status=0 log
	log=$$(mktemp)
	export DEBIAN_FRONTEND=noninteractive
	if [ ! -e $$policy ]; then
		ours=1; trap "rm -f $$policy" EXIT
		printf '#!/bin/sh\nexit 101\n' >$$policy && chmod 755 $$policy
	fi
	echo "Installing $$* with apt-get" >&2
	{ apt-get install -y -q --no-install-recommends "$$@" || {
		apt-get update -q && apt-get install -y -q --no-install-recommends "$$@"; }; } >$$log 2>&1 </dev/null ||
		{ status=2; tail -n 30 $$log >&2; }
	[ -z "$$ours" ] || { rm -f $$policy; trap - EXIT; }
	rm -f $$log
	return $$status
}
endef
export APT

.PHONY: help demo test check bench crash servers lock clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: $(STAMP) ## The whole service on loopback, sample mail sent through it (ARGS=--once: and then stop)
	@$(VENV)/bin/mailflow demo $(ARGS)

# Without the right to install servers the rest runs; the run's last lines say what was left out (tests/conftest.py).
test: $(STAMP) servers ## All tests, with real servers from Debian (ARGS are pytest's)
	@$(VENV)/bin/python tests/run.py $(ARGS)

bench: $(STAMP) servers ## Speed and memory beside peers, and the bars they are held to (ARGS: names of parts, --help)
	@$(VENV)/bin/python -m benchmarks $(ARGS)

crash: $(STAMP) servers ## The service killed 300 times under load, on each store; then the books are balanced
	@$(VENV)/bin/python -m tests.crash.campaign --kills 300 $(ARGS)
	@$(VENV)/bin/python -m tests.crash.campaign --kills 300 --postgres $(ARGS)

servers: $(STAMP)
	@eval "$$APT"; missing=$$($(VENV)/bin/python tests/servers.py) || exit; \
	if [ -n "$$missing" ]; then \
		case " $$missing " in *" postfix "*) \
			[ "$$(id -u)" != 0 ] || ! command -v debconf-set-selections >/dev/null || \
			debconf-set-selections <<<'postfix postfix/main_mailer_type select No configuration';; \
		esac; \
		apt_install $$missing || true; \
	fi

check: $(STAMP) ## Lint, format, types, architecture
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy --strict
	$(VENV)/bin/python -m pytest -q tests/arch

# Exact versions with hashes, for every processor; needs the package index. UPGRADE=1 takes the newest allowed.
lock: ## Renew requirements.lock and requirements-dev.lock from pyproject.toml (UPGRADE=1: newest versions)
	@$(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install -q uv==$(UV_VERSION)
	@export UV_CUSTOM_COMPILE_COMMAND='make lock'; set -e; \
	compile="env -u UV_FIND_LINKS .venv-lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes $(if $(UPGRADE),--upgrade) pyproject.toml"; \
	$$compile -o requirements.lock; \
	$$compile --extra dev -c requirements.lock -o requirements-dev.lock

clean: ## Remove everything that make made here
	rm -rf $(VENV) .venv-lock .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements-dev.lock pyproject.toml
	@eval "$$APT"; \
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		apt_install python3-venv || { \
			printf '\n%s has no venv module. Run once, as root, and then make again:\n\n  %s\n\n' '$(PYTHON)' \
				'apt-get update && apt-get install -y --no-install-recommends python3-venv' >&2; exit 1; }; \
	fi
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"mailflow needs Python 3.11 or later, $(PYTHON) is {sys.version}: make PYTHON=...")'
	@echo "Installing mailflow and its locked dependencies into $(VENV)" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install -q --require-hashes --only-binary :all: --no-binary authres,dkimpy,pyspf -r requirements-dev.lock
	@$(VENV)/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@
