"""Return latents from an embedding function of Chroma."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaecodec import Codec
from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.vectors import as_rows
from vaecodec_integrations.stores.base import check_codec_id

require("chromadb", extra="chroma")

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings  # noqa: E402
from chromadb.utils.embedding_functions import known_embedding_functions, register_embedding_function  # noqa: E402

_SPACES = {Metric.COSINE: "cosine", Metric.DOT: "ip", Metric.L2: "l2"}


@register_embedding_function
class CompressedEmbeddingFunction(EmbeddingFunction[Documents]):
    """Turn texts into latents: a function of Chroma embeds them, and the codec compresses the embeddings.

    Chroma keeps the path and the id of the codec file with the collection, and makes this function anew from them when
    the collection is opened. Import this module before, so that Chroma knows the name ``vaecodec``.

    Args:
        model: the embedding function that the codec was trained for, one that Chroma can make from its configuration.
        codec: path of the codec file; it must stay there.

    Raises:
        ArtifactError: the file is missing or damaged.
    """

    def __init__(self, model: EmbeddingFunction[Documents], codec: str | Path) -> None:
        self._model = model
        self._path = Path(codec).resolve()
        self.codec = Codec.load(self._path)

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma checks the name
        """Return latents of documents: for each text float32 (code_dim,)."""
        return list(self.codec.encode(as_rows(self._model(input))))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002
        """Return latents of queries, by the codec's query entry: for each text float32 (code_dim,)."""
        return list(self.codec.encode_queries(as_rows(self._model.embed_query(input))))

    @staticmethod
    def name() -> str:
        """Return the name under which Chroma keeps the function."""
        return "vaecodec"

    def default_space(self) -> Any:
        """Return how latents must be compared, in Chroma's terms."""
        return _SPACES[self.codec.latent_metric]

    def supported_spaces(self) -> list[Any]:
        """Return the one way in which latents can be compared."""
        return [_SPACES[self.codec.latent_metric]]

    def get_config(self) -> dict[str, Any]:
        """Return the configuration that :meth:`build_from_config` needs."""
        return {
            "model": self._model.name(),
            "model_config": self._model.get_config(),
            "codec": str(self._path),
            "codec_id": self.codec.codec_id,
        }

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> CompressedEmbeddingFunction:
        """Make the function that wrote this configuration.

        Raises:
            CodecMismatchError: the codec file is another one now.
        """
        model = known_embedding_functions[config["model"]].build_from_config(config["model_config"])
        made = CompressedEmbeddingFunction(model, config["codec"])
        check_codec_id(config["codec"], config["codec_id"], made.codec)
        return made

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:  # noqa: ARG002
        """Refuse, with ``CodecMismatchError``, another codec for a collection."""
        check_codec_id("the collection", old_config["codec_id"], self.codec)
