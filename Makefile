# `make demo` and `make test` need Python 3.11 and nothing else installed; everything lands in .venv.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
DATA   ?=
GROUP  ?= build
EXTRAS := pipelines server demo docs dev
TWO    := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install s3 demo test test-all bench docs lint format lock clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Installing the pinned packages into $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The whole pipeline on real photographs; DATA names a folder or s3:// prefix of your own.
demo: install
	$(BIN)/mpc demo $(if $(DATA),'demo.photos="$(DATA)"')

# The default suite: every test that takes seconds, two files at a time. `make test-all` adds the slow ones, alone: their
# kills and outages want the machine for themselves.
test: install s3
	$(BIN)/python -m pytest -m "not slow" $(TWO)

test-all: test
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pin anew. The local part of a version (+cpu) is dropped: it names one machine's build, not the release.
lock: install
	$(BIN)/pip-compile --quiet --upgrade $(EXTRAS:%=--extra %) --strip-extras --allow-unsafe --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml
	sed -i -E 's/^(torch==[0-9.]+)\+cpu/\1/' requirements.lock

# A real S3 server for the integration tests, in an environment of its own.
s3: .venv-s3/.installed

.venv-s3/.installed: infra/s3/requirements.txt
	$(PYTHON) infra/s3/serve.py --install
	@touch $@

# Measures this machine; takes many minutes.
bench: install
	$(BIN)/mpc bench --group $(GROUP)

# The pages and the API as HTML, warnings as errors: build/docs/index.html.
docs: install
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

clean:
	rm -rf $(VENV) .venv-s3 build docs/_generated runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
