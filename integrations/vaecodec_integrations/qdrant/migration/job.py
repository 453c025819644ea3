"""Describe what a migration copies, from where to where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models

from vaecodec.bulk import OnBadRows
from vaecodec.errors import MigrationError
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.client import CompressedQdrantClient
from vaecodec_integrations.qdrant.config import recommended_config
from vaecodec_integrations.qdrant.layout import (
    UNNAMED,
    CodedVector,
    Layout,
    Originals,
    dense_params,
    original_name,
)
from vaecodec_integrations.qdrant.originals import OriginalsFile
from vaecodec_integrations.qdrant.settings import KeptOriginals
from vaecodec_integrations.row_encoding import PackedRows, RowEncoding

# Two stored vectors count as different if their relative distance is larger than this. The limits are above the
# rounding of the storage as measured: turbo4 moves a vector by a tenth, and seldom by a third.
SAME_VECTOR = {"turbo4": 0.35, "turbo8": 2e-2}
SAME_FLOATS = 1e-2


@dataclass(frozen=True)
class Migration:
    """Describe what is copied from where to where.

    Attributes:
        client: the uncompressed client; source and target are on the same server.
        collection: the source.
        codec: compresses the source's vector ``vector``.
        state: a JSON file that remembers how far the copy came.
        into: the name of a new collection, or of an empty one that the codec's client created. Give exactly one of
            ``into`` and ``named``.
        named: the name of a new vector in the source collection itself.
        vector: the source's vector to compress, empty for the unnamed one.
        originals: where the uncompressed vectors are kept for re-ranking. With ``named`` and ``"disk"`` the source's
            own vector serves as the original.
        originals_path: the file of originals, where they are kept in one.
        originals_encoding: how that file stores a vector; half precision by default.
        code_bytes: RAM for the codes of one vector in a new collection, which is then stored and quantised as
            :func:`~vaecodec_integrations.qdrant.recommended_config` says; by default as the source is.
        batch_size: points that are read, encoded and written at a time.
        on_bad_rows: what happens to points whose vector holds NaN or infinity, or has no direction under cosine. Fail
            at the first one; skip: copy them without this vector, and list them beside the state file; or report:
            read the source first, and write nothing if there are any.
    """

    client: QdrantClient
    collection: str
    codec: VectorCodec
    state: Path
    into: str | None = None
    named: str | None = None
    vector: str = UNNAMED
    originals: Originals = Originals.NONE
    originals_path: Path | None = None
    originals_encoding: RowEncoding | None = None
    code_bytes: int | None = None
    batch_size: int = 1000
    on_bad_rows: OnBadRows = OnBadRows.FAIL

    def __post_init__(self) -> None:
        """Refuse arguments that contradict each other."""
        if (self.into is None) == (self.named is None):
            raise MigrationError("into, named: expected one, a new collection or a new vector, got both or none")
        if (self.originals is Originals.FILE) != (self.originals_path is not None):
            raise MigrationError("originals_path: expected a path exactly when originals are kept in a file")
        if self.into == self.collection or self.named == self.vector:
            raise MigrationError("into, named: expected a name of its own for the compressed vectors, got the source's")
        if self.code_bytes is not None:
            if self.into is None:
                raise MigrationError("code_bytes: expected a new collection, got a new vector of the source; give into")
            recommended_config(self.codec, bytes=self.code_bytes)
        if isinstance(self.originals_encoding, PackedRows):
            self.originals_encoding.check_fits(self.codec)

    @property
    def target(self) -> str:
        """Return the collection that holds the compressed vectors."""
        return self.collection if self.into is None else self.into

    @property
    def target_vector(self) -> str:
        """Return the name of the compressed vector."""
        return self.vector if self.named is None else self.named

    @cached_property
    def file(self) -> OriginalsFile | None:
        """Return the open file of originals."""
        if self.originals_path is None:
            return None
        return OriginalsFile(self.originals_path, self.codec.dim, encoding=self.originals_encoding)

    def close(self) -> None:
        """Release the file of originals; the client stays open."""
        if self.file is not None:
            self.file.close()

    @cached_property
    def compressed(self) -> CompressedQdrantClient:
        """Return the client of the target, as an application will open it."""
        kept: KeptOriginals = "disk" if self.originals is Originals.DISK else self.file
        codecs = {**dict.fromkeys(self.others), self.target_vector: self.codec}
        return CompressedQdrantClient(self.client, codecs=codecs, originals=kept)

    @cached_property
    def _params(self) -> dict[str, models.VectorParams]:
        return dense_params(self.client.get_collection(self.collection))

    def as_written(self, vector: Any) -> Any:
        """Turn a vector as it was read into the form that can be written.

        A point that has only the unnamed vector of several reads back as a plain list, which a collection of several
        vectors does not take.
        """
        return by_name(vector) if len(self._params) > 1 else vector or {}

    @property
    def others(self) -> list[str]:
        """Return the source's dense vectors that are copied as they are."""
        return [name for name in self._params if name != self.vector]

    @cached_property
    def multi(self) -> bool:
        """Tell whether a point of the source holds several rows under the vector's name."""
        return self._params[self.vector].multivector_config is not None

    @cached_property
    def datatype(self) -> models.Datatype | None:
        """Return how latents are stored: as the source's vectors are, except uint8, which would cut them to zero.

        With ``code_bytes`` as :func:`~vaecodec_integrations.qdrant.recommended_config` says.
        """
        if self.code_bytes is not None:
            params: models.VectorParams = recommended_config(self.codec, bytes=self.code_bytes)["vectors_config"]
            return params.datatype
        datatype = self._params[self.vector].datatype
        return None if datatype is models.Datatype.UINT8 else datatype

    @cached_property
    def tolerances(self) -> dict[str, float]:
        """Return how far each vector of the target may differ from what was written; see :data:`SAME_VECTOR`."""
        datatypes = {name: params.datatype for name, params in self._params.items()}
        datatypes[self.target_vector] = self.datatype
        return {name: SAME_VECTOR.get(d, SAME_FLOATS) if d else SAME_FLOATS for name, d in datatypes.items()}

    @cached_property
    def translation(self) -> Layout:
        """Return how the source's vectors become the target's."""
        keeps = self.originals is Originals.DISK and self.into is not None
        original = original_name(self.vector) if keeps else None
        return Layout({self.vector: CodedVector(self.vector, self.codec, self.multi, original)})

    @property
    def selection(self) -> Any:
        """Return which vectors of the source are read."""
        return True if self.named is None else [self.vector, self.named]


def by_name(vector: Any) -> dict[str, Any]:
    """Return the vectors of one point by name, the unnamed one under the empty name."""
    if vector is None:
        return {}
    return dict(vector) if isinstance(vector, Mapping) else {UNNAMED: vector}


def vector_names(info: models.CollectionInfo) -> list[str]:
    """Return the names of a collection's dense and sparse vectors."""
    return [*dense_params(info), *(info.config.params.sparse_vectors or {})]
