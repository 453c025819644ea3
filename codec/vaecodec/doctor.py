"""Examine what an installation can do: versions, execution providers that really start, threads, extras."""

from __future__ import annotations

import base64
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from vaecodec.codes.parallel import available_threads
from vaecodec.extras import require

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# For each extra: the modules to import, and what does not work without them.
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "cli": (("typer", "rich", "packaging"), "the command line"),
    "train": (("torch", "lightning_fabric", "safetensors"), "vaecodec train and fit"),
    "tensorboard": (("tensorboard",), "vaecodec train --tensorboard"),
    "export": (("onnx",), "writing codec files: vaecodec export, linear and bridge"),
    "hnsw": (("hnswlib",), "CompressedIndex, and hnswlib in reports and plans"),
    "qdrant": (("qdrant_client",), "the Qdrant clients, vaecodec migrate and rollback"),
    "postgres": (("pgvector", "psycopg", "sqlalchemy"), "compressed columns in PostgreSQL, vaecodec migrate-pg"),
    "django": (("django",), "compressed columns in Django models"),
    "sqlite-vec": (("sqlite_vec",), "latents in SQLite"),
    "duckdb": (("duckdb",), "latents in DuckDB"),
    "lancedb": (("lancedb",), "latents in LanceDB"),
    "chroma": (("chromadb",), "latents in Chroma"),
    "milvus": (("pymilvus",), "latents in Milvus"),
    "packed": (("numba",), "encoding to trellis codes; decoding and searching them is slower"),
    "hdf5": (("h5py",), "reading HDF5"),
    "parquet": (("pyarrow.parquet",), "reading and writing Parquet"),
    "ray": (("ray.data",), "CodecActor for Ray Data"),
    "report": (("matplotlib", "jinja2"), "vaecodec report, the picture of vaecodec fit"),
    "hub": (("huggingface_hub",), "Codec.from_pretrained and push_to_hub"),
    "embed": (("tokenizers",), "embedding texts by an ONNX model, as vaecodec reembed does"),
    "edge": (("qdrant_edge",), "Qdrant's own engine in reports and plans"),
    "usearch": (("usearch.index",), "CompressedUsearchIndex, and the graph in reports and plans without hnswlib"),
    "faiss": (("faiss",), "CompressedFaissIndex"),
    "langchain": (("langchain_core",), "CompressedEmbeddings for LangChain"),
    "llama-index": (("llama_index.core",), "CompressedEmbedding for LlamaIndex"),
    "sentence-transformers": (("sentence_transformers",), "the module Compress for sentence-transformers"),
    "sklearn": (("sklearn",), "CodecTransformer"),
    "prometheus": (("prometheus_client",), "the metrics of a drift monitor"),
    "gpu": (("onnxruntime",), "encoding on an NVIDIA GPU"),
}

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_IMPORT_SECONDS = 120
_ERRORS_ONLY = 3

# One product of (1, 4) with (4, 4) ones: an ONNX model of opset 13, by onnx.helper.
_PRODUCT = base64.b64decode(
    "CAgSADqUAQoRCgF4CgF3EgF5IgZNYXRNdWwSBmRvY3RvcipLCAQIBBABQgF3SkAAAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACA"
    "PwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/WhQKAXgSDwoNCAESCQoDEgFuCgIIBGIUCgF5Eg8KDQgBEgkKAxIBbgoCCARC"
    "BAoAEA0="
)


@dataclass(frozen=True)
class Provider:
    """Describe one of onnxruntime's execution providers.

    Attributes:
        name: as ``Codec.load(providers=[...])`` takes it.
        works: it started and computed a product without help from the CPU's.
        problem: why not, in onnxruntime's words; empty where it works.
    """

    name: str
    works: bool
    problem: str = ""


@dataclass(frozen=True)
class Extra:
    """Describe one of the optional parts of the installation.

    Attributes:
        name: as in ``pip install 'vaecodec[name]'``.
        enables: what it is for.
        versions: the distributions that it asks for and that are installed.
        missing: those that are not installed.
        trouble: what is installed and cannot be used, and why: too old, or its import fails.
    """

    name: str
    enables: str
    versions: dict[str, str]
    missing: list[str]
    trouble: str = ""

    @property
    def installed(self) -> bool:
        """Tell whether everything that the extra needs is installed."""
        return not self.missing


@dataclass(frozen=True)
class Diagnosis:
    """Hold everything that :func:`examine` found.

    Attributes:
        versions: of Python, the system, vaecodec and what it cannot do without.
        providers: every one that this onnxruntime was built with.
        cores: that the machine has.
        usable_cores: that this process may run on.
        thread_variables: those of the environment that are set.
        extras: all of them.
        troubles: what needs mending, a sentence each; nothing that is merely not installed.
    """

    versions: dict[str, str]
    providers: list[Provider]
    cores: int
    usable_cores: int
    thread_variables: dict[str, str]
    extras: list[Extra]
    troubles: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"healthy": not self.troubles, **asdict(self)}


def examine() -> Diagnosis:
    """Examine the installation; this imports every library of every installed extra, each extra in its own process."""
    needed = _needs()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        extras = list(pool.map(lambda name: _extra(name, needed[name]), EXTRAS))
    core = {str(requirement.name): version(requirement.name) for requirement in needed[""] if _found(requirement)}
    providers = [_provider(name) for name in onnxruntime.get_available_providers()]
    troubles = [_outdated(requirement) for requirement in needed[""]]
    troubles += [f"{provider.name} does not work: {provider.problem}" for provider in providers if _vital(provider)]
    troubles += [f"extra {extra.name}: {extra.trouble}" for extra in extras if extra.trouble]
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(both) == 2:
        troubles.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; mend it with: "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
        )
    return Diagnosis(
        versions={
            "python": platform.python_version(),
            "system": platform.platform(),
            "vaecodec": version("vaecodec"),
            **core,
        },
        providers=providers,
        cores=os.cpu_count() or 1,
        usable_cores=available_threads(),
        thread_variables={name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        extras=extras,
        troubles=[trouble for trouble in troubles if trouble],
    )


def _needs() -> dict[str, list[Requirement]]:
    """Return the requirements of the distribution by extra; the empty name holds those it always has."""
    read = require("packaging.requirements", extra="cli").Requirement
    requirements: list[Requirement] = [read(text) for text in requires("vaecodec") or ()]
    needs: dict[str, list[Requirement]] = {name: [] for name in ("", *EXTRAS)}
    for requirement in requirements:
        if requirement.name == "vaecodec":  # an extra that includes another extra, which is listed itself
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needs[""].append(requirement)
            continue
        for name in EXTRAS:
            if requirement.marker.evaluate({"extra": name}):
                needs[name].append(requirement)
    return needs


def _extra(name: str, requirements: Sequence[Requirement]) -> Extra:
    modules, enables = EXTRAS[name]
    versions = {item.name: version(item.name) for item in requirements if _found(item)}
    missing = [item.name for item in requirements if not _found(item)]
    outdated = [_outdated(item) for item in requirements if _found(item)]
    trouble = "; ".join(filter(None, outdated)) or ("" if missing else _import_failure(modules))
    return Extra(name, enables, versions, missing, trouble)


def _import_failure(modules: Sequence[str]) -> str:
    """Return why modules cannot be imported; another process tries it, since a broken library may end the process."""
    statement = f"import {', '.join(modules)}"
    command = [sys.executable, "-P", "-W", "ignore", "-c", statement]  # -P: import no modules from the current folder
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"'{statement}' did not end within {_IMPORT_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"'{statement}' ended by signal {-done.returncode}"
    return f"'{statement}' failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no message'}"


def _provider(name: str) -> Provider:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY + 1
    if name != "CPUExecutionProvider":
        # Otherwise the CPU provider would take over without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(_PRODUCT, options, providers=[name])
        if name not in session.get_providers():
            return Provider(name, False, "it could not be started")
        (result,) = session.run(["y"], {"x": np.ones((1, 4), np.float32)})
    except Exception as error:  # onnxruntime's exceptions have no common public base class
        message = re.sub(r"\s+", " ", str(error)).strip()
        return Provider(name, False, "it leaves the work to the CPU" if "fallback to CPU EP" in message else message)
    right = bool(np.array_equal(result, np.full((1, 4), 4, np.float32)))
    return Provider(name, right, "" if right else f"a product of ones gave {result.tolist()}")


def _vital(provider: Provider) -> bool:
    return provider.name == "CPUExecutionProvider" and not provider.works


def _outdated(requirement: Requirement) -> str:
    if not _found(requirement):
        return f"{requirement.name} is not installed"
    found = version(requirement.name)
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} {found} is installed, and {requirement.specifier} is needed"


def _found(requirement: Requirement) -> bool:
    return _installed(requirement.name)


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
