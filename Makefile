# `make test` is all there is to know; the other targets are its parts.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test lint perl unit matrix pyz release soak bench clean

test: lint perl unit matrix

$(BIN)/pytest: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(BIN)/pytest

lint: $(BIN)/pytest
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --no-tips --eval-annotations -t=3.9- wafermon zipapp
	$(BIN)/vermin --quiet --no-tips -t=3.6- wafermon/client.py

# Perl's own tests; pytest runs the SDK against a real sidecar besides.
perl:
	@if command -v perl >/dev/null && command -v prove >/dev/null; then cd perl && prove -l t; \
	elif [ "$$CI" = true ]; then echo "perl is missing, and this is CI" >&2; exit 1; \
	else echo "skipped: the Perl SDK's tests, as there is no perl here"; fi

unit: $(BIN)/pytest tests/web/node_modules
	$(BIN)/pytest

# What drives the browser that the dashboard is tested in; nothing of it is shipped.
tests/web/node_modules: tests/web/package-lock.json
	@if command -v npm >/dev/null; then npm ci --prefix tests/web --ignore-scripts --no-audit --no-fund --silent && touch $@; \
	else echo "no npm: the tests of the dashboard in a browser are skipped"; fi

# The wheel, installed, and the .pyz, on every interpreter from 3.9 on that can be found.
matrix: $(BIN)/pytest
	$(BIN)/python tests/matrix.py

# One file that runs on a host without pip: dist/wafermon.pyz, with its checksums and its SBOM.
pyz: $(BIN)/pytest
	$(BIN)/python zipapp/build.py

# From what is committed; ALLOW_DIRTY=1 takes the rest, too.
release: $(BIN)/pytest
	$(BIN)/python zipapp/release.py $(if $(ALLOW_DIRTY),--allow-dirty)

# Random faults under load, checked from outside; a failure names its seed.
SECONDS ?= 600
soak: $(BIN)/pytest
	$(BIN)/python tests/soak.py --seconds $(SECONDS)

# All figures, into docs/benchmarks.md; of other programs, where they are on PATH.
bench: $(BIN)/pytest
	$(BIN)/python -m bench all --write

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
