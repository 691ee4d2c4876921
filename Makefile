# Everything that a change must pass, as CI runs it. Needs uv; uv installs the rest.
UV ?= uv

.PHONY: check lint types test launchers format

check: lint types test

lint:
	$(UV) run ruff check
	$(UV) run ruff format --check

types:
	$(UV) run mypy

# Compiled files are kept, or every process of the tests would compile torch again.
test:
	PYTHONDONTWRITEBYTECODE= $(UV) run pytest

# Jobs that submitit and Ray start; their plugins are extras, for Hydra would load them at every start.
launchers:
	$(UV) run --with hydra-submitit-launcher pytest -n 0 tests/sweep/test_launcher.py
	RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 $(UV) run --with hydra-ray-launcher pytest -n 0 tests/sweep/test_launcher.py

format:
	$(UV) run ruff check --fix
	$(UV) run ruff format
