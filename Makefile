# `make demo` and `make test` work on a fresh machine: they make a virtual environment in .venv with pinned packages.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

# Paddle's modules take longer to compile than to import: they are kept compiled, for all the processes that follow.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check lock clean

demo: $(READY)
	$(VENV)/bin/python examples/dit_pipeline.py

test: check
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

lock: $(READY)
	$(VENV)/bin/uv pip compile -q --python-version 3.11 --no-header --no-annotate --no-emit-index-url requirements.in -o requirements.txt

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check uv==$(shell sed -n 's/^# uv==//p' requirements.in)
	UV_SYSTEM_CERTS=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/uv pip install -q -r requirements.txt
	UV_SYSTEM_CERTS=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/uv pip install -q --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) output build *.egg-info
