# The two commands of README are `make run` and `make test`; everything a target needs, it installs.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
export PRSM_HOME ?= $(CURDIR)/.prsm
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run demo train teach test check static types style soak bench lock install clean

run: $(VENV)/.base
	$(BIN)/prsm up

demo: $(VENV)/.base
	$(BIN)/prsm demo

install: $(VENV)/.base

train: $(VENV)/.train

# Train, mend, distil, evaluate, gate, publish, ask, earn: the whole loop on a node of its own.
teach: $(VENV)/.train
	$(BIN)/python -m bench.teach

# Two at a time, a file's tests in one process; those that start nodes, which mostly wait, come first.
test: static
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Without the other tests, but with the one that holds the declared tables and the migrations together.
check: static
	$(BIN)/python -m pytest -q tests/integration/core/test_migrations.py

static: $(VENV)/.train
	$(MAKE) --jobs 2 --output-sync types style

types:
	$(BIN)/basedpyright

style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry src
	$(BIN)/vulture
	$(BIN)/python tools/check_lengths.py
	$(BIN)/python tools/check_security.py

# The slow proofs; `make test` holds a small version of each.
soak: $(VENV)/.train
	PRSM_TEST_KILL_ROUNDS=30 PRSM_TEST_SCHEMATHESIS_CASES=2000 $(BIN)/python -m pytest --timeout 7200 \
		tests/acceptance/test_kill9.py tests/acceptance/test_schemathesis.py
	PRSM_TEST_LARGE_FILES=1 PRSM_TEST_CORRUPTIONS=10000 PRSM_TEST_CHAOS_FETCHES=3000 PRSM_TEST_TRANSFER_KILLS=50 PRSM_TEST_TRANSFER_MIB=1024 \
		PRSM_TEST_INGEST_KILLS=50 PRSM_TEST_SCRUB_FLIPS=600 PRSM_TEST_COLLECTOR_KILLS=15 PRSM_TEST_JS_IPFS=1 \
		$(BIN)/python -m pytest --timeout 7200 tests/unit/data_layer tests/integration/data_layer \
		tests/contract/test_unixfs_oracles.py tests/contract/test_kubo_rpc.py
	PRSM_TEST_LEARNING_WORLDS=4 PRSM_TEST_WORLD_HORIZON_S=8000 PRSM_TEST_GATE_WORLDS=300 $(BIN)/python -m pytest --timeout 7200 tests/simulation
	PRSM_TEST_AUDIT_TAMPERINGS=10000 $(BIN)/python -m pytest --timeout 7200 tests/unit/safety/audit
	PRSM_TEST_SCREENED_REQUESTS=1000000 $(BIN)/python -m pytest --timeout 14400 tests/integration/agents/test_screening_coverage.py
	PRSM_TEST_TRAINING_KILLS=20 $(BIN)/python -m pytest --timeout 7200 tests/integration/teachers/test_training_loop.py
	PRSM_TEST_EXAMPLES=1000 $(BIN)/python -m pytest -n 2 --timeout 7200 tests/unit
	PRSM_TEST_GYM_ALL=1 $(BIN)/python -m pytest tests/unit/teachers/test_gym_families.py
	$(BIN)/python -m tests.fuzz.storage_parsers --runs 1000000 --parser all
	$(BIN)/python -m tests.fuzz.model_files --runs 1000000 --seed 1

bench: $(VENV)/.train
	$(BIN)/python -m bench.ledger
	$(BIN)/python -m bench.audit
	$(BIN)/python -m bench.gateway
	$(BIN)/python -m bench.request
	$(BIN)/python -m bench.storage
	$(BIN)/python -m bench.routing
	$(BIN)/python -m bench.safety
	$(BIN)/python -m bench.decision
	$(BIN)/python -m bench.discovery
	$(BIN)/python -m bench.liveness
	$(BIN)/python -m bench.alerts
	$(BIN)/python -m bench.provider_world
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.gates
	$(BIN)/python -m bench.teachers_tables
	$(BIN)/python -m bench.teacher_inference
	$(BIN)/python -m bench.distillation
	$(BIN)/python -m bench.tuning
	$(BIN)/python -m bench.rlvr
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.reward_model

lock: | $(BIN)/python
	$(BIN)/python -m pip install -q pip-tools
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--allow-unsafe --upgrade -o requirements/base.lock pyproject.toml
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--allow-unsafe --upgrade --extra dev -c requirements/base.lock -o requirements/dev.lock pyproject.toml
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--unsafe-package torch --upgrade --extra train --extra tensorflow --extra ray -c requirements/dev.lock \
		-o requirements/train.lock pyproject.toml

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PRSM needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: requirements/base.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --require-hashes -r requirements/base.lock
	$(BIN)/python -m pip install -q --no-deps -e .
	$(BIN)/python -m compileall -q src
	touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.base
	$(BIN)/python -m pip install -q --require-hashes -r requirements/dev.lock
	touch $@

# torch has builds of its own for each kind of processor, so that no one hash names it.
$(VENV)/.train: requirements/train.lock $(VENV)/.dev
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements/train.lock
	touch $@

clean:
	rm -rf $(VENV) .prsm .ruff_cache .hypothesis .pytest_cache
