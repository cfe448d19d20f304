# Two commands: `make demo` and `make test`. Both make the environment when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made-from-these-files
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE # torch and transformers would be compiled again in every process

.PHONY: help env demo test check bench embedded stubs clean

help:
	@echo "make demo      start the server, stream a noisy set to it three times, print WER, write demo-report/report.html"
	@echo "make test      run the tests"
	@echo "make check     ruff, mypy --strict, import-linter"
	@echo "make bench     every benchmark with its defaults, peers beside it (about ten minutes)"
	@echo "make embedded  train the embedded recognisers again (hours on two cores)"
	@echo "make stubs     generate the gRPC stubs from proto/"

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "asrlife needs Python 3.10 to 3.12; name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@rm -f $(STAMP)
	@$(PYTHON) -m venv --clear .venv || { echo "could not make .venv: is the venv module of $(PYTHON) installed?" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt \
	  || { echo "could not install uv: is a package index reachable?" >&2; exit 2; }
	@echo "installing into .venv (several GB with torch; a minute when cached)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]' \
	  || { echo "the environment could not be installed; the lines above say why; 'make clean' starts over" >&2; exit 2; }
	@$(BIN)/python -c 'import torch, torchaudio, transformers' \
	  || { echo "the environment is broken: torch and torchaudio do not load together; 'make clean' and try again" >&2; exit 2; }
	@touch $(STAMP)

demo: env
	@$(BIN)/asrlife demo --out demo-report

test: env
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: env
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=server $(BIN)/lint-imports

# what lies in the folders below benchmarks/ is no benchmark: servers, clients, and searches that want arguments
bench: env
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

embedded: env
	@$(BIN)/asrlife recipe run embedded

stubs: env
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. \
	  --mypy_out=quiet:. --mypy_grpc_out=quiet:. proto/asrlife/v1/asrlife.proto

clean:
	rm -rf .venv demo-report
