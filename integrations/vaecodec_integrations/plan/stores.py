"""List the stores for vectors: what each can hold, what it costs, and how to use it."""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from vaecodec.codes import CodeType
from vaecodec.interface import Metric
from vaecodec.packed_index.sketch import sketch_bytes
from vaecodec_integrations.hnsw.index import SPACES
from vaecodec_integrations.plan.candidates import QUANTISED, Setting
from vaecodec_integrations.plan.commands import QdrantCollection

_FLOAT32, _FLOAT16 = 4, 2
# The narrowest latents and the smallest trellis codes that a plan considers: dimensions, and bytes.
_NARROWEST = 16
_M, _EF_CONSTRUCTION, _EF = 16, 200, 128


_BITS = {
    CodeType.FLOAT32: 32,
    CodeType.FLOAT16: 16,
    CodeType.INT8: 8,
    CodeType.INT4: 4,
    CodeType.INT2: 2,
    CodeType.BINARY: 1,
}


def qdrant_bytes(setting: Setting) -> int:
    """Return the bytes to ask ``recommended_config`` for: a code without norm, for Qdrant adds scales of its own."""
    assert setting.dtype is not None
    return -(-setting.width * _BITS[setting.dtype] // 8)


def ef_for(found: int) -> int:
    """Choose how many candidates a graph looks at to return so many."""
    return max(_EF, 2 * found)


class StoreName(StrEnum):
    """Name the store that keeps the vectors."""

    QDRANT = "qdrant"
    HNSWLIB = "hnswlib"
    PACKED = "packed"
    PGVECTOR = "pgvector"


@dataclass(frozen=True)
class Use:
    """Hold what the instructions need beside the setting.

    Attributes:
        data: the vectors' file or address, as the user gave it.
        metric: how the embeddings are compared.
        vectors: how many there will be.
        k: neighbours asked for.
        oversample: that many times k are scored again with the originals; 1 for none.
    """

    data: str
    metric: Metric
    vectors: int
    k: int
    oversample: int


class Store(ABC):
    """Describe one store for vectors. Bytes are for each vector, without payloads."""

    name: StoreName

    @abstractmethod
    def holds(self, setting: Setting) -> bool:
        """Tell whether the store can hold vectors in this form."""

    @abstractmethod
    def ram(self, setting: Setting) -> int:
        """Return the bytes of RAM, with graph and ids."""

    def least(self, dim: int) -> tuple[int, int]:
        """Return the bytes of the smallest code that the store can hold, and the least RAM of a vector with it."""
        width = min(_NARROWEST, dim)
        uniform = [
            Setting("", None, width, dim, width, dtype, -(-width * bits // 8), rescored)
            for dtype, bits in _BITS.items()
            for rescored in (False, True)
        ]
        held = [each for each in (*uniform, Setting("", None, dim, dim, dim, None, _NARROWEST)) if self.holds(each)]
        return min(each.code_bytes for each in held), min(self.ram(each) for each in held)

    @abstractmethod
    def disk(self, setting: Setting, oversample: int) -> int:
        """Return the bytes on disk, with the originals where these are needed."""

    @abstractmethod
    def uncompressed(self, dim: int) -> int:
        """Return the bytes of RAM for a float32 vector that is kept as it is."""

    @abstractmethod
    def imports(self, oversample: int) -> list[str]:
        """Return the imports that :meth:`steps` needs."""

    @abstractmethod
    def steps(self, setting: Setting, use: Use) -> list[str]:
        """Return the lines of Python that follow after the codec was loaded."""

    def copy(self, setting: Setting, use: Use, codec: str) -> list[str]:  # noqa: ARG002
        """Return the command that compresses the vectors where they are, word by word; none where there is none."""
        return []

    def instructions(self, setting: Setting, use: Use) -> str:
        """Return the instructions up to a search: commands that make the codec or copy a collection, if needed, then
        Python.
        """
        command, path = "", setting.file
        if path is None:
            path = f"{setting.codec}{setting.width}.onnx"
            made = ["vaecodec", "linear", use.data, "--kind", setting.codec, "--dim", str(setting.width), "--out", path]
            metric = [] if use.metric is Metric.COSINE else ["--metric", str(use.metric)]
            command = f"$ {shlex.join([*made, *metric])}\n"
        copied = self.copy(setting, use, path)
        command += f"$ {shlex.join(copied)}\n" if copied else ""
        command += "\n" if command else ""
        width = None if setting.width == setting.file_width else setting.width
        lines = [
            *self.imports(use.oversample),
            "",
            f"codec = {loaded(path, width)}",
            f"# embeddings: float (n, {setting.dim}); query: float ({setting.dim},)",
            *self.steps(setting, use),
        ]
        return command + "\n".join(lines) + "\n"


def loaded(path: str, width: int | None) -> str:
    """Write the Python expression of a codec, of all its latents or the first ``width``."""
    dim = "" if width is None else f", dim={width}"
    return f"Codec.load({json.dumps(path)}{dim})"


class Qdrant(Store):
    """Keep latents in Qdrant: as floats, or as TurboQuant codes in RAM, with floats on disk to order candidates."""

    name = StoreName.QDRANT

    # Bytes per vector of graph, ids and scales: the largest in RAM, the typical on disk (docs/qdrant.md, "Sizes").
    _RAM, _DISK = 144, 80

    def holds(self, setting: Setting) -> bool:
        return setting.dtype in _BITS and setting.rescored == (setting.dtype in QUANTISED)

    def ram(self, setting: Setting) -> int:
        return setting.code_bytes + self._RAM

    def disk(self, setting: Setting, oversample: int) -> int:
        floats = _FLOAT32 * setting.width if setting.rescored else 0
        originals = _FLOAT16 * setting.dim if oversample > 1 else 0
        return setting.code_bytes + floats + originals + self._DISK

    def uncompressed(self, dim: int) -> int:
        return _FLOAT32 * dim + self._RAM

    def imports(self, oversample: int) -> list[str]:  # noqa: ARG002
        return [
            "from qdrant_client import QdrantClient",
            "from vaecodec import Codec",
            "from vaecodec_integrations.qdrant import CompressedQdrantClient, recommended_config, "
            "recommended_search_params",
        ]

    def copy(self, setting: Setting, use: Use, codec: str) -> list[str]:
        collection = QdrantCollection.at(use.data)
        if collection is None:
            return []
        return collection.migration(
            codec, setting, qdrant_bytes(setting), width=setting.file_width, oversample=use.oversample
        )

    def steps(self, setting: Setting, use: Use) -> list[str]:
        size = qdrant_bytes(setting)
        rerank = f', originals="disk", rerank={use.oversample}' if use.oversample > 1 else ""
        collection = QdrantCollection.at(use.data)
        if collection is not None:
            using = f", using={json.dumps(collection.vector)}" if collection.vector else ""
            return [
                f"client = CompressedQdrantClient({collection.client}, codec{rerank})",
                f"client.query_points({json.dumps(collection.target)}, query{using}, limit={use.k}, "
                f"search_params=recommended_search_params(codec, bytes={size}))",
            ]
        return [
            f'client = CompressedQdrantClient(QdrantClient("http://localhost:6333"), codec{rerank})',
            f'client.create_collection("docs", **recommended_config(codec, bytes={size}))',
            'client.upload_collection("docs", embeddings, ids=range(len(embeddings)))',
            f'client.query_points("docs", query, limit={use.k}, '
            f"search_params=recommended_search_params(codec, bytes={size}))",
        ]


def compressed_index(metric: Metric, dim: int, codec: str) -> str:
    """Write the Python expression of an index that takes the place of ``hnswlib.Index``, around that of a codec."""
    return f'CompressedIndex("{SPACES[metric]}", {dim}, {codec})'


class Hnswlib(Store):
    """Keep latents in hnswlib, which stores float32 only."""

    name = StoreName.HNSWLIB

    # Per element: 2 M + 1 links of the lowest level and a label on disk, the higher levels' (M + 1 each, 1 in M - 1
    # elements) and their size. In RAM also a pointer, a level, a mutex and an entry of the table of labels: 112 bytes
    # were measured of hnswlib 0.8.
    _DISK = 4 * (2 * _M + 1) + 8 + 4 * (_M + 1) // (_M - 1) + 4
    _RAM = _DISK + 112

    def holds(self, setting: Setting) -> bool:
        return setting.dtype is CodeType.FLOAT32

    def ram(self, setting: Setting) -> int:
        return setting.code_bytes + self._RAM

    def disk(self, setting: Setting, oversample: int) -> int:
        return setting.code_bytes + self._DISK + (_FLOAT32 * setting.dim if oversample > 1 else 0)

    def uncompressed(self, dim: int) -> int:
        return _FLOAT32 * dim + self._RAM

    def imports(self, oversample: int) -> list[str]:
        again = ["from vaecodec.evaluation import similarities"] if oversample > 1 else []
        return ["from vaecodec import Codec", *again, "from vaecodec_integrations.hnsw import CompressedIndex"]

    def steps(self, setting: Setting, use: Use) -> list[str]:
        found = use.k * use.oversample
        lines = [
            f"index = {compressed_index(use.metric, setting.dim, 'codec')}",
            f"index.init_index(max_elements={use.vectors:_}, M={_M}, ef_construction={_EF_CONSTRUCTION})",
            "index.add_items(embeddings)",
            f"index.set_ef({ef_for(found)})",
            f"labels, distances = index.knn_query(query, k={found})",
        ]
        if use.oversample > 1:
            lines += [
                "# originals: the embeddings, memory-mapped",
                "scores = similarities(query[None], originals[labels[0]], codec.metric)[0]",
                f"best = labels[0][(-scores).argsort()[:{use.k}]]",
            ]
        return lines


class Packed(Store):
    """Keep codes in a ``PackedIndex``: without a graph, so that every code is compared."""

    name = StoreName.PACKED

    def holds(self, setting: Setting) -> bool:
        return not setting.rescored

    def ram(self, setting: Setting) -> int:
        # Codes other than trellis codes are searched by matrix products, without a sketch.
        return setting.code_bytes + (0 if setting.dtype else sketch_bytes(setting.code_bytes))

    def disk(self, setting: Setting, oversample: int) -> int:
        return setting.code_bytes + (_FLOAT32 * setting.dim if oversample > 1 else 0)

    def uncompressed(self, dim: int) -> int:
        return _FLOAT32 * dim

    def imports(self, oversample: int) -> list[str]:  # noqa: ARG002
        return ["from vaecodec import Codec", "from vaecodec.packed_index import PackedIndex"]

    def steps(self, setting: Setting, use: Use) -> list[str]:
        code = f'dtype="{setting.dtype}"' if setting.dtype else f"bytes={setting.code_bytes}"
        again = f", originals=originals, oversample={use.oversample}" if use.oversample > 1 else ""
        return [
            f"index = PackedIndex(codec, {code})",
            "index.add(embeddings)",
            *(["# originals: the embeddings, memory-mapped"] if again else []),
            f"rows, scores = index.search(query[None], {use.k}{again})",
        ]


class Pgvector(Store):
    """Keep latents in PostgreSQL: a ``vector`` or ``halfvec`` column with pgvector's HNSW index."""

    name = StoreName.PGVECTOR

    # Of a page of the index 8,160 bytes are usable. An element takes 80 bytes with its line pointers beside its values,
    # and 208 for its neighbours; elements of higher levels have more of these, about 7 bytes on average.
    _PAGE, _USABLE, _ELEMENT = 8192, 8160, 80 + 208 + 7
    # Bytes of a row beside its values: its header, line pointer and key, and the empty rest of its page.
    _ROW = 88
    # Largest width that an index of pgvector takes, by type.
    _TYPES: ClassVar = {CodeType.FLOAT32: ("vector", 2_000), CodeType.FLOAT16: ("halfvec", 4_000)}

    def column_type(self, setting: Setting) -> str:
        """Return the type of the column, without its width."""
        assert setting.dtype is not None
        return self._TYPES[setting.dtype][0]

    def holds(self, setting: Setting) -> bool:
        return setting.dtype in self._TYPES and setting.width <= self._TYPES[setting.dtype][1]

    def ram(self, setting: Setting) -> int:
        return self._index(setting.code_bytes)

    def disk(self, setting: Setting, oversample: int) -> int:
        originals = _FLOAT16 * setting.dim if oversample > 1 else 0
        return self._index(setting.code_bytes) + setting.code_bytes + originals + self._ROW

    def uncompressed(self, dim: int) -> int:
        return self._index(_FLOAT32 * dim)

    def _index(self, value_bytes: int) -> int:
        """Return the bytes of an element in the index, with its share of a page, which holds whole elements only."""
        return -(-self._PAGE // max(1, self._USABLE // (value_bytes + self._ELEMENT)))

    def imports(self, oversample: int) -> list[str]:
        again = ["from vaecodec_integrations.reranking import OriginalsColumn"] if oversample > 1 else []
        return [
            "import psycopg",
            "from vaecodec import Codec",
            "from vaecodec_integrations.postgres.column import CompressedColumn",
            *again,
        ]

    def steps(self, setting: Setting, use: Use) -> list[str]:
        kind, again = self.column_type(setting), use.oversample > 1
        kept, values = ("", "")
        if again:
            kept, values = ', originals=OriginalsColumn("original")', ", column.originals.values(embeddings, codec.dim)"
        names, marks = ("id, embedding, original", "%s, %s, %s") if again else ("id, embedding", "%s, %s")
        found = use.k * use.oversample
        return [
            f'column = CompressedColumn(codec, "docs", "embedding", storage="{kind}"{kept})',
            'with psycopg.connect("postgresql://localhost/app", autocommit=True) as connection:',
            '    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY)")',
            "    column.add_to(connection)",
            "    column.check(connection)",
            f"    rows = zip(range(len(embeddings)), column.documents(embeddings){values})",
            "    with connection.cursor() as cursor:",
            f'        cursor.executemany("INSERT INTO docs ({names}) VALUES ({marks})", rows)',
            '    connection.execute(f"CREATE INDEX ON docs USING hnsw (embedding {column.operator_class}) "',
            f'                       "WITH (m = {_M}, ef_construction = {_EF_CONSTRUCTION})")',
            f'    connection.execute("SET hnsw.ef_search = {ef_for(found)}")',
            f"    hits = column.search(connection, query, {use.k}{f', rerank={use.oversample}' if again else ''})",
        ]


STORES: tuple[Store, ...] = (Qdrant(), Hnswlib(), Packed(), Pgvector())
