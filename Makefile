SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

# Kernels talk over TCP on this machine alone and warn of it, once per notebook: that one line is left out.
QUIETLY := 2> >(grep --line-buffered -vF "Kernel is running over TCP without encryption" >&2)

# nbval runs in the notebooks' folder: relative paths would point elsewhere there.
ifneq ($(NCBOOK_DATA),)
export NCBOOK_DATA := $(abspath $(NCBOOK_DATA))
endif
ifneq ($(NCBOOK_RUNS),)
export NCBOOK_RUNS := $(abspath $(NCBOOK_RUNS))
endif

.DEFAULT_GOAL := help

.PHONY: help
help:  ## List the targets.
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

.PHONY: env
env: .venv/.installed  ## Make or update .venv with the locked versions.

# uv installs in seconds what pip needs minutes for; its version is in the lock like everybody else's. Compiled at once:
# each notebook is a process that imports torch, in 3 s rather than 7 where Python may not write its bytecode (containers).
.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ncbook needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": try make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "Setting up .venv: about 3 GB of packages, some minutes ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements.txt)"
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --requirement requirements.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

.PHONY: run
run: env  ## The main job: notebooks 01 to 04 with their defaults, results in out/.
	@mkdir -p out
	@for notebook in notebooks/0[1-4]_*.ipynb; do \
		echo "$$notebook" && $(BIN)/papermill --no-progress-bar --log-level WARNING --kernel python3 \
			"$$notebook" "out/$$(basename "$$notebook")" $(QUIETLY) || exit 1; \
	done
	@echo "Done: the results are in $(CURDIR)/out; open them with: make lab, folder out"

# A process per core with one thread each: two processes that share their cores wait for each other's threads.
PARALLEL := --numprocesses auto --maxprocesses 8

# A fresh run folder for each call, shared by its notebooks: a stale run must not make a test pass. Browser tests run on
# their own: a server, a kernel and a browser keep two cores busy. The fuzzer's seed is the commit: every commit tries
# inputs of its own, and the same ones when it is tested again.
.PHONY: test
test: env  ## All tests, some minutes of fuzzing, then all notebooks against their committed outputs.
	@runs="$$(mktemp -d)"; trap 'rm -rf "$$runs"' EXIT; export NCBOOK_RUNS="$$runs" OMP_NUM_THREADS=1; set -e; \
	$(BIN)/pytest $(PARALLEL) --ignore tests/fuzz --ignore tests/browser; \
	$(BIN)/pytest tests/browser; \
	$(BIN)/pytest $(PARALLEL) --timeout 1800 --hypothesis-seed=$$((16#$$(git rev-parse --short=8 HEAD 2> /dev/null || echo 0))) tests/fuzz; \
	$(BIN)/pytest $(PARALLEL) --dist loadscope --nbval notebooks/ --nbval-current-env --nbval-cell-timeout 600 \
		--nbval-sanitize-with tests/notebooks/sanitize.cfg --timeout 900 --durations 8

.PHONY: coverage
coverage: env  ## All tests but those in a browser and the notebooks, and which lines of the package they leave out.
	@runs="$$(mktemp -d)"; trap 'rm -rf "$$runs"' EXIT; export NCBOOK_RUNS="$$runs" OMP_NUM_THREADS=1; \
	$(BIN)/pytest $(PARALLEL) --ignore tests/fuzz --ignore tests/browser --cov=ncbook

MINUTES ?= 10
.PHONY: fuzz
fuzz: env  ## Try new inputs for MINUTES=10 or until one is found that fails; prints the seed of each round.
	@export OMP_NUM_THREADS=1 NCBOOK_FUZZ_EXAMPLES=1000; end=$$((SECONDS + 60 * $(MINUTES))); \
	while [ $$SECONDS -lt $$end ]; do \
		$(BIN)/pytest $(PARALLEL) --timeout 0 --hypothesis-seed=$$((RANDOM * 32768 + RANDOM)) tests/fuzz || exit 1; \
	done

.PHONY: notebooks
notebooks: env  ## Run all notebooks in place with their defaults: the only outputs that are committed.
	@runs="$$(mktemp -d)"; trap 'rm -rf "$$runs"' EXIT; export NCBOOK_RUNS="$$runs" NCBOOK_PROGRESS=off; \
	for notebook in notebooks/*.ipynb notebooks/appendix/*.ipynb; do \
		echo "$$notebook" && $(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level WARN \
			--ExecutePreprocessor.record_timing=False "$$notebook" $(QUIETLY) || exit 1; \
	done

.PHONY: figures
figures: env  ## Rebuild figures/: every notebook on strokes and on what NCBOOK_DATA holds.
	@$(BIN)/python figures/make.py
	@$(BIN)/python figures/explorers.py
	@$(BIN)/python figures/thumbnails.py

.PHONY: bench
bench: env  ## Compare with the peers: benchmarks/results/*.md.
	@for benchmark in collapse fewshot training objectives report scale omniglot; do $(BIN)/python "benchmarks/$$benchmark.py" || exit 1; done

.PHONY: book
book: env  ## Notebooks, API and a report as pages in out/book, to be read without a network.
	@$(BIN)/sphinx-build -q -W --keep-going -c book . out/book
	@$(BIN)/python book/report_example.py out/book/report_example.html
	@echo "Done: open $(CURDIR)/out/book/index.html"

# Rooted here, so that notebooks/ and out/ are both in its file browser. Jupyter refuses root (containers) unless told.
.PHONY: lab
lab: env  ## Open the notebooks in JupyterLab; FLAGS="--no-browser --port 8889" goes to it.
	@$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(FLAGS)

# A kernel is started and runs the page's cells before somebody asks for it; the next one once a page had 8 s to be drawn,
# or they share its cores.
.PHONY: app
app: env  ## Explorers on a page of voila; FLAGS="--no-browser --port 8889" goes to it.
	@echo "Looking for the network that the page shows; the first time it is trained, a minute or two ..."
	@$(BIN)/python app/shown.py
	@JUPYTER_PATH="$(CURDIR)/app" $(BIN)/voila app/explorers.ipynb \
		--template=ncbook --preheat_kernel=True --pool_size=1 --VoilaKernelManager.fill_delay=8 --show_tracebacks=True --Voila.ip=127.0.0.1 $(FLAGS)

.PHONY: lint
lint: env  ## ruff on code and notebooks, codespell on every text.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell

.PHONY: lock
lock:  ## Renew requirements.txt from pyproject.toml.
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra notebooks --extra models --extra book --extra dev \
		--no-emit-index-url --no-header --no-annotate pyproject.toml --output-file requirements.txt
