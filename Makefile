# `make compare` and `make test` work on a fresh clone with Python >= 3.11 and make alone.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
RUN := $(VENV)/bin
INSTALL := $(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help compare test check tables clean

help:
	@echo "make compare   install, then train five cells on sequential digits: a table and a figure"
	@echo "make test      install, then run the tests (WORKERS=$(WORKERS) processes)"
	@echo "make check     install, then lint and type-check"
	@echo "make tables    write the tables of README.md and docs/ anew, from results/ and benchmarks/"
	@echo "make clean     remove $(VENV)"

compare: $(VENV)/.lab
	$(RUN)/ungated compare digits

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(RUN)/pytest --numprocesses=$(WORKERS)

check: $(VENV)/.dev
	$(RUN)/ruff check .
	$(RUN)/mypy

tables: $(VENV)/.lab
	$(RUN)/ungated report --tables README.md --tables docs/results.md --tables docs/speed.md

# The stamp files make a second call quick: pip runs again only when what it installs has changed.
$(VENV)/.lab: pyproject.toml constraints.txt | $(VENV)/.venv
	@echo "installing ungated[lab] into $(VENV) (PyTorch is large: some minutes the first time)"
	@$(INSTALL) --editable ".[lab]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.venv
	@echo "installing ungated[dev] into $(VENV) (PyTorch is large: some minutes the first time)"
	@$(INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/.lab

$(VENV)/.venv:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "ungated needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV)
