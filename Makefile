# `make demo` and `make test` work on a fresh machine with Python 3.11+, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test coverage test-slow lint lock servers servers-lock servers-clean clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(BIN)/deploykit run mlp --output artifacts/mlp --quick --force

test: setup
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

# apart from `test`: measuring costs every one of some thousand child processes its start
coverage: setup
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile --cov --cov-report=term

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra zoo --generate-hashes --upgrade \
	  --custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

servers: setup
	$(BIN)/python -m tests.servers.environments

servers-lock:
	$(BIN)/python -m tests.servers.pinning

servers-clean:
	rm -rf "$${DEPLOYKIT_SERVERS:-.servers}"

clean:
	rm -rf .venv artifacts/*/ .mypy_cache .pytest_cache .ruff_cache .coverage*
