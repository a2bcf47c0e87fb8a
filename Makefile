# People and CI use the same targets. `make all` on a fresh machine does everything, in this checkout only.
PYTHON ?= python3
BIN := .venv/bin
# Nothing is written outside the checkout, pip's cache included.
export PIP_NO_CACHE_DIR := 1
export UV_NO_CACHE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where torch comes from. Left empty: PyTorch's CPU index on Linux where it answers, else pip's own settings.
export TORCH_INDEX_URL ?=
# For `make lock`: --upgrade, or --upgrade-package NAME.
LOCK_FLAGS ?=

.PHONY: all install lock audit test test-all test-services hostile fuzz soak serve ui check fix docs bench clean

all: install  ## install, then the whole life: experiment, deploy, test
	$(BIN)/python e2e_mlflow.py --mode all

install: .venv/.installed  ## make .venv and install what the lock names, hashes checked, and torch's CPU build

.venv/.installed: requirements.lock requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python install/torch_build.py
	$(BIN)/python -m pip check
	touch $@

lock:  ## after a change of requirements: resolve them for every platform, and those of the bundle's image
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --universal $(LOCK_FLAGS) \
	  --no-emit-package torch --no-emit-package pip --excludes install/cuda.txt --custom-compile-command "make lock" \
	  --output-file requirements.lock requirements-dev.txt
	cd demo_serving/package && $(abspath $(BIN))/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header \
	  --python-platform x86_64-manylinux_2_28 $(LOCK_FLAGS) --output-file requirements.lock requirements.in

audit: install  ## known weaknesses of what the two locks name, but for those in audit-exceptions.txt
	$(BIN)/python install/audit.py

test: install  ## the quick tests: two and a half minutes on two idle cores
	$(BIN)/python -m pytest -m "not (slow or docker or s3 or postgresql or hostile)"

test-all: install  ## every test: the quick ones, whole lives, browser, training, Docker, S3, PostgreSQL
	$(BIN)/python -m pytest -m "not (docker or s3 or postgresql or hostile)"
	$(BIN)/python -m pytest -m "docker or s3 or postgresql"

test-services: install  ## the tests against a Docker engine, an S3 store and a PostgreSQL server
	$(BIN)/python -m pytest -m "docker or s3 or postgresql"

hostile: install  ## attack a running server for six minutes; prints what other callers saw meanwhile
	$(BIN)/python -m pytest -n 0 -m hostile tests/hostile

fuzz: install  ## Schemathesis over the server's OpenAPI document, more than 2,000 requests
	FUZZ_EXAMPLES=60 $(BIN)/python -m pytest -n 0 -s tests/genai_server/test_fuzz.py

soak: install  ## 64 clients for a minute, then MLflow taken away; prints a table
	$(BIN)/pip install -q -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/soak.py

serve: install  ## the champion over HTTP, Swagger at http://127.0.0.1:5001/docs
	$(BIN)/python e2e_mlflow.py --mode serve --start

ui: install  ## MLflow's UI over the store, until Ctrl-C
	$(BIN)/python e2e_mlflow.py --mode ui

check: install  ## what a commit must pass: lint, format, import borders, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 0 tests/system/test_import_borders.py

fix: install  ## repair what can be repaired by a program
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## write docs/cli.md from the modes' --help, and the bundle's openapi.json from the server
	COLUMNS=110 $(BIN)/python -c "from genai_lifecycle.cli.main import MODES; from genai_lifecycle.cli.flags import reference; \
	  print(reference(MODES), end='')" > docs/cli.md
	$(BIN)/python -c "import json; from genai_server.http.app import create_app; from genai_server.settings import ServerSettings; \
	  print(json.dumps(create_app(ServerSettings()).openapi(), indent=2, ensure_ascii=False))" > demo_serving/package/openapi.json

bench: install  ## measure the whole life, the engine, and the server beside its peers; prints tables (30 minutes)
	$(BIN)/pip install -q -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/lifecycle.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/serving.py
	test -z "$$MLFLOW_S3_ENDPOINT_URL" || $(BIN)/python benchmarks/storage.py

# Feedback and traces of a server of an earlier version stay where they are until the next one takes them over.
clean:  ## remove scratch files; runs, prompts, versions, feedback and traces stay
	test ! -d local_staging || find local_staging -mindepth 1 -maxdepth 1 \
	  ! -name 'feedback.jsonl*' ! -name 'traces-*.db*' -exec rm -rf {} +
	rm -rf local_mlflow_logs .pytest_cache .ruff_cache .mypy_cache build *.egg-info
