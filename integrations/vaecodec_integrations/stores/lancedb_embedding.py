"""Return latents from an embedding function in LanceDB's registry."""

from __future__ import annotations

from typing import Any

from vaecodec import Codec
from vaecodec.extras import require
from vaecodec.vectors import as_rows
from vaecodec_integrations.stores.base import check_codec_id

require("lancedb", extra="lancedb")

from lancedb.embeddings import EmbeddingFunction, get_registry, register  # noqa: E402
from pydantic import Field, PrivateAttr  # noqa: E402


@register("vaecodec")  # type: ignore[no-untyped-call]
class CompressedEmbeddingFunction(EmbeddingFunction):
    """Turn texts into latents: a function of LanceDB's registry embeds them, and the codec compresses the embeddings.

    LanceDB keeps the path and the id of the codec file in the table's schema, and makes this function anew from them
    when the table is opened. Import this module before, so that the registry knows the name ``vaecodec``.

    Attributes:
        model: name of the embedding function in the registry, the one that the codec was trained for.
        model_options: its arguments.
        codec: path of the codec file; it must stay there.
        codec_id: the id that the file must have; filled in by :meth:`create`.
    """

    model: str
    model_options: dict[str, Any] = Field(default_factory=dict)
    codec: str
    codec_id: str = ""
    _model: Any = PrivateAttr()
    _codec: Codec = PrivateAttr()

    @classmethod
    def create(cls, **arguments: Any) -> CompressedEmbeddingFunction:
        """Make the function of these attributes.

        Raises:
            ArtifactError: the file is missing or damaged.
            CodecMismatchError: its id is not the one that was given.
        """
        codec = Codec.load(arguments["codec"])
        arguments.setdefault("codec_id", codec.codec_id)
        check_codec_id(arguments["codec"], arguments["codec_id"], codec)
        made: CompressedEmbeddingFunction = super().create(**arguments)  # type: ignore[no-untyped-call]
        made._codec = codec
        model: Any = get_registry().get(made.model)
        made._model = model.create(**made.model_options)
        return made

    def ndims(self) -> int:
        """Return the width of the latents."""
        return self._codec.code_dim

    def compute_source_embeddings(self, texts: Any, *_: Any, **__: Any) -> list[Any]:
        """Return latents of documents: for each text float32 (code_dim,)."""
        return list(self._codec.encode(as_rows(self._model.compute_source_embeddings(texts))))

    def compute_query_embeddings(self, query: Any, *_: Any, **__: Any) -> list[Any]:
        """Return latents of queries, by the codec's query entry: for each text float32 (code_dim,)."""
        return list(self._codec.encode_queries(as_rows(self._model.compute_query_embeddings(query))))
