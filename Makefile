# Everything that a change must pass, as CI runs it. Needs uv; uv installs the rest.
UV ?= uv

.PHONY: check lint types test format

check: lint types test

lint:
	$(UV) run ruff check
	$(UV) run ruff format --check

types:
	$(UV) run mypy

test:
	$(UV) run pytest

format:
	$(UV) run ruff check --fix
	$(UV) run ruff format
