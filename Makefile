# Everything that a change must pass, as CI runs it. Needs uv; uv installs the rest.
UV ?= uv

# Compiled files are kept, or every process of the tests would compile torch again.
COMPILED = PYTHONDONTWRITEBYTECODE=

.PHONY: check lint types test launchers next-hydra format

check: lint types test next-hydra launchers

lint:
	$(UV) run ruff check
	$(UV) run ruff format --check

types:
	$(UV) run mypy

test:
	$(COMPILED) $(UV) run pytest

# Jobs that submitit and Ray start; their plugins are extras, for Hydra would load them at every start.
launchers:
	$(COMPILED) $(UV) run --with hydra-submitit-launcher pytest -n 0 tests/sweep/test_launcher.py
	$(COMPILED) RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 $(UV) run --with hydra-ray-launcher pytest -n 0 tests/sweep/test_launcher.py

# What composes, sweeps and finds mistakes, with the next line of Hydra. Its prereleases are taken here alone: uv takes
# none that is not asked for, and users have the stable line.
next-hydra:
	$(COMPILED) $(UV) run --with 'hydra-core>=1.4.0rc1,<1.5' --with 'omegaconf>=2.4.0rc1,<2.5' pytest \
		tests/test_hydra_internals.py tests/test_main.py tests/test_config.py tests/test_conf.py tests/test_references.py \
		tests/test_hostile.py tests/test_anew.py tests/sweep tests/checks

format:
	$(UV) run ruff check --fix
	$(UV) run ruff format
