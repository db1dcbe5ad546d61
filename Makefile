# On a fresh machine one of these is all the set-up there is:
#   make demo   a small comparison of noise strategies, with its report
#   make test   lint, types, import directions, tests
#   make bench  how fast operations, training and sampling are here (an hour or more; docs/performance.md)
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/installed
	$(BIN)/noisegan compare examples/quickstart.toml --outdir runs/quickstart --jobs 2
	@echo "Open that page in a browser. Next: . $(BIN)/activate, and on with the README."

test: .venv/installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed
	mkdir -p runs
	PYTHONPATH=tests $(BIN)/python -m bench --json runs/bench.json

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
