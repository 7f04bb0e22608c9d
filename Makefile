# make demo | test | lint | site | notebooks | clean-room | house | fuzz | mutate | arms | study | bench | clean. Each needs
# only Python: it makes `.venv` first.
# `clean` keeps runs/ and report/.
#
#   make demo                          a small joint run and a small PreAlign run; tables and plots in report/
#   make arms SEEDS="1 2 3" JOBS=2     recipes (ARMS) over seeds; table and plots in report/arms/
#   make study ONLY="clone search"     experiments of docs/study.md that have no row in docs/study/ yet; all without ONLY
#   make bench ONLY="decoder contrast"  benchmarks of docs/speed.md; all without ONLY, in full with FULL=1
#   make demo PYTHON=/path/to/python   another interpreter (3.11 to 3.13, with venv)

USABLE = 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c $(USABLE) 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
XALIGN = $(BIN)/xalign

ARMS = joint joint_switch joint_vanilla align prealign random random_switch kept kept_noswitch \
	kept_nostage1 kept_nostage1_noswitch held prealign_plus oracle
ARMS := $(ARMS:%=%_clone_tiny)
SEEDS = 0
JOBS = 2
RUNS = $(foreach arm,$(ARMS),$(SEEDS:%=$(arm)-%))

# Runs side by side get equal shares of the cores. These variables keep XLA's thread pool to its share. Two runs on two
# cores then took 0.46 s a step each, against 0.60 s when both pools used both cores (0.47 s when pinned by taskset).
CORES := $(shell getconf _NPROCESSORS_ONLN)
share = t=$$(($(CORES) / $(1))); export PJRT_NPROC=$$((t > 0 ? t : 1)); export OMP_NUM_THREADS=$$PJRT_NPROC;

# XLA's buffers on huge pages, where glibc can (benchmarks/huge_pages.py).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

INPUTS = 10000
FILES = xalign_jax/objectives xalign_jax/training/step.py
COUNT = 100
SEED = 0

.PHONY: demo test lint bytecode site notebooks clean-room house fuzz mutate arms study bench clean prepare-demo prepare-arms
.DELETE_ON_ERROR:

.venv/done: setup.py pyproject.toml constraints.txt requirements-core.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with venv found: install one, or make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[demo,test]'
	touch $@

# A finished run is a `done` file in its model directory. An interrupted one continues from its checkpoint.
demo: .venv/done
	$(MAKE) --no-print-directory prepare-demo
	$(MAKE) --no-print-directory -j2 runs/joint/done runs/prealign/done
	$(XALIGN) compare runs/joint runs/prealign --output=report

prepare-demo: .venv/done
	$(XALIGN) data prepare --gin_file=recipes/prealign_clone_tiny.gin

runs/joint/done runs/prealign/done: runs/%/done: | .venv/done
	@$(call share,2) $(if $(filter prealign,$*),TQDM_POSITION=1) \
		$(XALIGN) train --gin_file=recipes/$*_clone_tiny.gin --model_dir=runs/$*
	@touch $@

arms: .venv/done
	$(MAKE) --no-print-directory prepare-arms
	$(MAKE) --no-print-directory --keep-going -j$(JOBS) $(RUNS:%=runs/arms/%/done)
	$(XALIGN) compare $(RUNS:%=runs/arms/%) --output=report/arms

prepare-arms: .venv/done
	set -e; for arm in $(ARMS); do $(XALIGN) data prepare --gin_file=recipes/$$arm.gin; done

$(RUNS:%=runs/arms/%/done): runs/arms/%/done: | .venv/done
	@mkdir -p runs/arms; echo "$*: training, log in runs/arms/$*.log"
	@run=$*; $(call share,$(JOBS)) $(XALIGN) train --gin_file=recipes/$${run%-*}.gin --gin.Recipe.seed=$${run##*-} \
		--model_dir=runs/arms/$* >runs/arms/$*.log 2>&1 || { echo "$*: failed:"; tail -n 3 runs/arms/$*.log; exit 1; }
	@touch $@; echo "$*: done"

study: .venv/done
	@$(call share,$(JOBS)) $(BIN)/python -m study run $(ONLY) --jobs=$(JOBS) $(if $(DATA),--data=$(DATA)) $(if $(FORCE),--force) || rc=$$?; \
		$(BIN)/python -m study tables && exit $${rc:-0}

bench: .venv/done
	@$(BIN)/python benchmarks/run.py $(if $(ONLY),--only="$(ONLY)") $(if $(FULL),--full)

lint: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Imports what tests import while the checks use one core: else every process of pytest would compile it.
bytecode: .venv/done
	@$(BIN)/pytest --collect-only -qq >/dev/null 2>&1 || true

# Builds the documentation into build/site/index.html, and fails at a broken link.
site: .venv/done
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Runs the notebooks again and keeps what they print and draw.
notebooks: .venv/done
	$(BIN)/python notebooks/run.py

# Does README.md from top to bottom in an empty folder with a home of its own, and compares what comes out. MODELS is a
# folder with e5-small/ and smollm2-135m/; without it, steps that read them are left out. STEPS=10 takes minutes, not an hour.
clean-room: .venv/done
	$(BIN)/python tests/clean_room.py --python=$(PYTHON) $(if $(MODELS),--models=$(MODELS)) $(if $(STEPS),--steps=$(STEPS))

# Prints the import graph, circles, sizes, types and prose of this checkout. For another one, with each long sentence:
# `make house ROOT=../other SENTENCES=1`.
house: .venv/done
	@$(BIN)/python tests/house.py $(if $(ROOT),--root=$(ROOT)) $(if $(SENTENCES),--sentences)

# Gives damaged files to everything that reads files. For a part of it: `make fuzz INPUTS=1000 READERS="dictionary"`.
fuzz: .venv/done
	$(BIN)/python tests/fuzz/run.py $(READERS) --inputs=$(INPUTS)

# Puts small faults into the library, one at a time, and lists those that no test sees. For other files:
# `make mutate FILES="xalign_jax/data/sampling/mixing.py" COUNT=50 SEED=1`.
mutate: .venv/done
	$(BIN)/python tests/mutation/mutate.py $(FILES) --count=$(COUNT) --seed=$(SEED)

test: .venv/done
	@$(MAKE) --no-print-directory -j2 lint bytecode
	$(BIN)/pytest -n 3 --dist=worksteal --timeout=300 --durations=10

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
