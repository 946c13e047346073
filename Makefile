# Two commands for newcomers: make demo, make test. Everything lives in .venv and build/.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
BENCH_PIP := build/bench/bin/python -m pip --disable-pip-version-check --quiet
LOCK := $(CURDIR)/$(BIN)/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock'
LOCKS := base batch bench build clients dev docs image openvino perf photo
STUBS := fullconv/protos
PROTOS := $(addprefix $(STUBS)/,caffe.proto model.proto onnx_file.proto open_inference.proto scoring.proto)
MODELS := build/models
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
WORKERS ?= --numprocesses auto --maxprocesses 4 --dist loadfile
CHECKED := converter service fullconv protos tests benchmarks models docs

.PHONY: bench demo photo test test-slow check check-code check-stubs check-locks docs serve lock proto clean
.DELETE_ON_ERROR:

demo: .venv/base  ## convert the shipped checkpoint, score the shipped page, draw the heatmap
	$(BIN)/fullconv-convert models/digits/digits.safetensors --arch models/digits/digits.toml \
		--images models/digits -o $(MODELS)/digits/1 --force
	$(BIN)/fullconv-score models/digits/page.png --models $(MODELS) --model digits \
		--grid build/page.npz --heatmap build/page-heatmap.png
	$(BIN)/python models/digits/count_found.py build/page.npz
	@echo "the heatmap: build/page-heatmap.png"

photo: .venv/photo  ## convert a network with its ImageNet weights, score a photograph, draw the heatmap
	$(BIN)/python models/real/convert.py $(MODELS) --network efficientnet-lite0 --photographs build/photographs
	$(BIN)/fullconv-score build/photographs/coffee.png --models $(MODELS) --model efficientnet-lite0 --mode exact \
		--stride 16 --scales 2x --average probabilities --heatmap build/photo-heatmap.jpg --heatmap-class espresso
	@echo "the heatmap: build/photo-heatmap.jpg"

test: .venv/dev  ## the quick tests that need no PyTorch, containers, other servers' clients, extras or Ray
	$(BIN)/pytest $(WORKERS) -m "not slow and not torch and not compose and not clients and not extras and not browser and not ray and not openvino"

test-slow: .venv/dev  ## the slow tests that need nothing else
	$(BIN)/pytest $(WORKERS) -m "slow and not torch and not compose and not clients and not extras and not browser and not ray and not openvino"

check: check-code check-stubs check-locks  ## format, lint, types, stubs, proto contract, locks

check-code: .venv/dev .venv/docs
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy

check-stubs: .venv/dev
	@rm -rf build/check/stubs && mkdir -p build/check/stubs
	$(call generate,build/check/stubs)
	$(BIN)/python protos/contract.py --check
	@for stub in $(STUBS)/*_pb2*.py*; do cmp $$stub build/check/stubs/$$stub || { echo "$$stub is stale: make proto"; exit 1; }; done

check-locks: .venv/dev
	@rm -rf build/check/locks && mkdir -p build/check/locks/requirements
	@cp pyproject.toml build/check/locks/ && cp requirements/*.txt build/check/locks/requirements/
	$(call compile,build/check/locks)
	@for lock in $(LOCKS); do cmp requirements/$$lock.txt build/check/locks/requirements/$$lock.txt || \
		{ echo "requirements/$$lock.txt is stale: make lock"; exit 1; }; done

bench: build/bench  ## compare with other ways to score, in about ten minutes; FULL=1 measures more; BENCH="OPTIONS"
	PYTHONPATH=benchmarks$(addprefix :,$(PYTHONPATH)) build/bench/bin/python -m bench $(if $(FULL),--full) $(BENCH)

docs: .venv/docs  ## build the documentation site and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site: build/site/index.html"

serve: .venv/base  ## serve the repository's models on 127.0.0.1:8500
	$(BIN)/fullconv-serve --models models

lock: .venv/dev  ## update requirements/ after a change of pyproject.toml; UPGRADE=1 takes new releases
	$(call compile,.)

proto: .venv/dev  ## generate the stubs, and add new fields to the contract
	$(call generate,.)
	$(BIN)/python protos/contract.py

clean:
	rm -rf .venv build

define generate
$(BIN)/python -m grpc_tools.protoc -I $(STUBS)=protos --python_out=$(1) --pyi_out=$(1) $(PROTOS)
$(BIN)/python -m grpc_tools.protoc -I $(STUBS)=protos --grpc_python_out=$(1) $(STUBS)/scoring.proto
endef

define compile
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements/base.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --group build -o requirements/build.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --group image -c requirements/base.txt -o requirements/image.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --no-deps --group openvino -o requirements/openvino.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --group batch -c requirements/image.txt -o requirements/batch.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --group bench -c requirements/base.txt -o requirements/bench.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --group clients -o requirements/clients.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --no-deps --group perf -o requirements/perf.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --no-deps --group photo -c requirements/base.txt -o requirements/photo.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --group dev -c requirements/base.txt -o requirements/dev.txt
cd $(1) && $(LOCK) $(if $(UPGRADE),--upgrade) --group docs -c requirements/dev.txt -o requirements/docs.txt
endef

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fullconv needs Python 3.11 or later")'
	$(PYTHON) -m venv .venv

.venv/base: requirements/base.txt requirements/build.txt pyproject.toml | .venv/bin/python
	$(PIP) install --require-hashes -r requirements/base.txt -r requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: .venv/base requirements/dev.txt
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

.venv/docs: requirements/docs.txt | .venv/bin/python
	$(PIP) install --require-hashes -r requirements/docs.txt
	@touch $@

.venv/photo: .venv/base requirements/photo.txt
	$(PIP) install --require-hashes --no-deps -r requirements/photo.txt
	@touch $@

build/bench: requirements/base.txt requirements/bench.txt requirements/build.txt pyproject.toml | .venv/bin/python  ## an environment with the contenders of `make bench`; TORCH= leaves PyTorch out
	$(PYTHON) -m venv build/bench
	$(BENCH_PIP) install --require-hashes -r requirements/base.txt -r requirements/build.txt
	$(BENCH_PIP) install --require-hashes --no-deps -r requirements/bench.txt
	$(BENCH_PIP) install --no-deps --no-build-isolation --editable .
	$(if $(TORCH),$(BENCH_PIP) install $(TORCH) && $(BENCH_PIP) install --no-deps $(TORCHVISION))
	@touch $@

build/clients: requirements/clients.txt | .venv/bin/python  ## an environment with the clients of other servers
	$(PYTHON) -m venv build/clients
	build/clients/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/clients.txt
	@touch $@

build/perf: requirements/perf.txt | .venv/bin/python  ## Triton's perf_analyzer; it needs Debian's libb64-0d
	$(PIP) install --require-hashes --no-deps --upgrade --target build/perf -r requirements/perf.txt
	@touch $@
