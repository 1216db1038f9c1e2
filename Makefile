# Every target makes the environment first if it is missing or stale. It needs Python >= 3.11 and a C++ compiler.
PYTHON ?= python3
STUDY ?= default
ifeq ($(origin study),command line)
$(error STUDY is written in capitals: make run STUDY=name)
endif
# Recipes read these from the environment: a value is one word for the shell, whatever it holds.
override PYTHON := $(value PYTHON)
override STUDY := $(value STUDY)
# `nproc` would take OMP_NUM_THREADS, the threads of one process, for the number of cores.
override CORES := $(or $(value CORES),$(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || echo 2))
export PYTHON STUDY CORES
# The study by the name of its file or the path of it.
named = study=$${STUDY\#config/}; study=$${study%.yaml}
BIN := .venv/bin
STAMP := .venv/.installed
VALIDATOR := build/validator
NATIVE_TESTS := $(addprefix tests/precision/test_,brain.py chains.py conversions.py graphs.py grouped.py routines.py sizes.py winograd.py)
INSTALL := $(BIN)/pip install --editable '.[dev,workflow,cluster]'
# The packages of more extras, without the project itself: to install that once more would compile it once more.
EXTRAS = import sys, tomllib; known = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*(package for extra in sys.argv[1:] for package in known[extra]), sep="\n")
install_extras = $(BIN)/python -c '$(EXTRAS)' $(1) | $(BIN)/pip install --quiet --requirement /dev/stdin
NATIVE := CMakeLists.txt $(wildcard src/pipeline/*/native/*)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# As an address, since pip splits this list at blanks.
space := $() $()
export PIP_CONSTRAINT := file://$(subst $(space),%20,$(CURDIR))/constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: env run archive schema test test-fast coverage durations test-emulated test-native test-slurm test-wheel lint docs bench clean

# Dates alone would let a build pass that is not of these sources: a copied environment, a file with its old date.
env: $(STAMP)
	@python -m pipeline.runtime.native_build 2>/dev/null || { echo "compiling the native routines anew" && $(INSTALL) --quiet; }

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "parsimony needs Python >= 3.11, and '$$PYTHON' is older or missing; try: make PYTHON=python3.12" >&2; exit 2; }
	@compiler="$${CXX:-c++}"; command -v "$${compiler%% *}" >/dev/null \
		|| { echo "parsimony needs a C++ compiler and found none ($$compiler); install one (Debian: apt-get install g++) or set CXX" >&2; exit 2; }
	@begun=$$(date +%s); \
	if test -x $(BIN)/python; then said=--quiet; echo "bringing .venv up to date and compiling the native routines"; \
	else said=; echo "installing 2.3 GB of packages into .venv and compiling the native routines: one to ten minutes in all"; \
		echo "pip tells what it fetches, and is silent while it compiles"; "$$PYTHON" -m venv .venv; fi \
	&& $(INSTALL) $$said && echo "installed in $$(($$(date +%s) - begun)) s"
	@touch $@

# The file is looked for before minutes of installation.
run:
	@$(named); test -f "config/$$study.yaml" || { cd config \
		&& echo "there is no config/$$study.yaml; studies: $$(ls *.yaml | sed 's/\.yaml$$//' | tr '\n' ' ' | sed 's/ $$//')" >&2; exit 2; }
	@$(MAKE) --no-print-directory env
	@$(named); python -m pipeline check "$$study"
	@$(named); echo "snakemake --keep-going --cores $$CORES --configfile config/$$study.yaml"; \
	snakemake --keep-going --cores "$$CORES" --configfile "config/$$study.yaml"
	@$(named); python -m pipeline check "$$study" --report

archive: $(STAMP)
	@$(named); python -m pipeline archive --study "$$study"

# One process more than there are cores, for tests that wait for the programs that they start. Each computes with one thread:
# the cases are small, and spinning threads on a busy machine make them many times slower. A file is one process's, so that
# what its tests share is made once; tests/conftest.py puts the long files first.
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n "$$((CORES + 1))" --dist loadfile --no-loadscope-reorder

test: $(STAMP) $(VALIDATOR)/.installed
	$(PYTEST) --durations=20 --durations-min=2

# What tells whether an archive's description is an RO-Crate needs an older `rich` than the live view has.
$(VALIDATOR)/.installed: tests/crate/requirements.txt
	"$$PYTHON" -m venv $(VALIDATOR)
	PIP_CONSTRAINT= $(VALIDATOR)/bin/pip install --quiet --requirement $<
	@touch $@

# Without the tests that start Snakemake or MPI, and those that tests/durations.tsv knows as long ones; of many cases the first.
# One process a core: few of them wait, and each process collects the whole suite first.
test-fast: $(STAMP)
	$(PYTEST) -n "$$CORES" --fast

# Which lines and branches of the package the suite reaches; the whole table is in build/coverage.
coverage: $(STAMP)
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html

# Write the schema of studies and the comments of the default one anew, from the descriptions in the code.
schema: $(STAMP)
	@mkdir -p build
	python -m pipeline schema >build/schema.json && mv build/schema.json config/schema.json
	python -m pipeline schema --comment config/default.yaml >build/default.yaml && mv build/default.yaml config/default.yaml

# Record which tests are long, for `make test-fast`.
durations: $(STAMP)
	$(PYTEST) --record-durations

# A real Slurm on this machine, from Debian's packages, for as long as its tests take; without them, a skip that says so.
test-slurm: $(STAMP)
	python -m pytest -m slurm tests/slurm

# Routines of processors that this machine is not, compiled for them and emulated; without compiler or emulator, a skip.
test-emulated: $(STAMP)
	python -m pytest -m emulated tests/precision

test-native: $(STAMP)
	@# The routines once more, built with the address sanitizer, which has to be loaded before Python.
	pip install --quiet --no-deps --upgrade --target build/sanitized . \
		--config-settings=cmake.define.PARSIMONY_SANITIZE=ON --config-settings=build-dir=build/sanitized-objects
	SANITIZED=build/sanitized PYTHONPATH=tests/precision ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 \
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
		python -m pytest -q -p sanitized $(NATIVE_TESTS)

# A wheel, used where there is neither compiler nor checkout, with each of these interpreters; without any, with one of each
# supported version that there is on this machine.
PYTHONS ?=
override PYTHONS := $(value PYTHONS)
export PYTHONS
test-wheel:
	set -f; tests/wheel/run $$PYTHONS

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow
	@mkdir -p build
	@# All rules run in this one environment, pinned by constraints.txt: that answers the lint's wish for one per rule.
	snakemake --lint text 2>&1 | tee build/lint.txt | grep -E '^    \* |Error' \
		| grep -v 'Specify a conda environment or container for each rule' && { cat build/lint.txt; exit 1; } || true
	grep -q 'Lints for rule report' build/lint.txt

# The site: build/site/index.html.
docs: .venv/.docs
	NO_COLOR=1 python -m sphinx -q -W --keep-going -b html docs build/site
	@echo "the documents: build/site/index.html"

.venv/.docs: $(STAMP)
	$(call install_extras,docs)
	@touch $@

bench: $(patsubst benchmarks/%.py,bench-%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

bench-%: benchmarks/%.py $(STAMP)
	python $<

# The peers that they race; they run without them too, and say in their tables that they are missing.
bench-precision bench-pretrained bench-gaussian_process: .venv/.bench
.venv/.bench: $(STAMP)
	$(call install_extras,bench vision)
	@touch $@

clean:
	rm -rf .venv build
