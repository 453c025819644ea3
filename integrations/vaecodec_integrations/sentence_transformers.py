"""Use a codec as the last module of a sentence-transformers model, saved and loaded with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from vaecodec.artifact import read_artifact
from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError
from vaecodec.extras import require

require("sentence_transformers", extra="sentence-transformers")

import torch  # noqa: E402
from sentence_transformers.base.modules.module import Module  # noqa: E402

FILE_NAME = "codec.onnx"


class Compress(Module):  # type: ignore[misc]
    """Turn sentence embeddings into latents, as queries where ``encode_query`` says so.

    It runs on the CPU wherever the model is, and no gradient passes through it: train the model without it.

    Args:
        path: the codec file.
        dim: width of the latents, where the file has several; by default all of them.

    Raises:
        ArtifactError: the file is missing, damaged, foreign or too new; a subclass says which.
        InvalidDimensionError: the file has no codec of width ``dim``.

    Examples:
        ``model.append(Compress("codec.onnx"))`` puts it at the end of a ``SentenceTransformer``.

        >>> from vaecodec_integrations.sentence_transformers import Compress
        >>> Compress("codec.onnx").get_embedding_dimension()
        64
    """

    config_keys: ClassVar[list[str]] = ["dim"]
    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(self, path: str | os.PathLike[str], dim: int | None = None) -> None:
        super().__init__()
        self.path = Path(path).absolute()
        self.codec = Codec.load(path, dim=dim)
        self.dim = self.codec.code_dim

    def __reduce__(self) -> tuple[Any, ...]:
        """Let other processes, such as those of ``encode`` with several devices, load the file themselves."""
        return type(self), (self.path, self.dim)

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Replace ``sentence_embedding``, (n, codec.dim), by latents, float32 (n, code_dim), on the same device.

        Raises:
            InvalidVectorsError: an embedding is not of the codec's width, not finite, or without direction.
        """
        embeddings = features["sentence_embedding"]
        rows = embeddings.detach().to("cpu", torch.float32).numpy()
        latents = self.codec.encode_queries(rows) if task == "query" else self.codec.encode(rows)
        features["sentence_embedding"] = torch.from_numpy(latents).to(embeddings.device)
        return features

    def get_embedding_dimension(self) -> int:
        """Return the width of the latents."""
        return self.dim

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Copy the codec file into the model's folder.

        Raises:
            CodecMismatchError: the file is no longer the one that was loaded.
        """
        data, metadata = read_artifact(self.path)
        if metadata.identity != self.codec.codec_id:
            raise CodecMismatchError(
                f"{self.path}: expected codec {self.codec.codec_id[:12]}, which this model uses, got codec "
                f"{metadata.identity[:12]}; put the file back, or make the module again"
            )
        target = Path(output_path) / FILE_NAME
        if not (target.exists() and target.samefile(self.path)):
            target.write_bytes(data)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Compress:
        """Load what :meth:`save` wrote; called by ``SentenceTransformer``."""
        hub = {name: options.get(name) for name in ("token", "cache_folder", "revision")}
        hub["local_files_only"] = options.get("local_files_only", False)
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        path = cls.load_file_path(model_name_or_path, FILE_NAME, subfolder=subfolder, **hub)
        return cls(path or Path(model_name_or_path, subfolder, FILE_NAME), config.get("dim"))
