"""Use a codec as a scikit-learn transformer: a linear one that it fits, or one from a file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError, NotFloatingPointError
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.linear import LinearKind, fit_linear
from vaecodec.vectors import as_array, as_rows

require("sklearn", extra="sklearn")

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402


class CodecTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn embeddings into latents and back.

    ``transform`` encodes documents; queries go through ``codec_.encode_queries``, which differs in some codecs.

    Args:
        codec: a codec file. By default a linear codec is fitted on the data; with a file ``fit`` learns nothing.
        n_components: width of the latents: for a file one of those it has, by default all; for a linear codec 1 to
            the number of features, by default that number.
        kind: which linear codec, see :class:`vaecodec.LinearKind`; without meaning for a file.
        metric: how the embeddings are compared, ``cosine``, ``dot`` or ``l2``; without meaning for a file, which says
            it itself. Under ``cosine`` rows need not be normalised, but must not be zero.

    Attributes:
        codec_: the codec, a :class:`vaecodec.VectorCodec`.
        n_features_in_: width of the embeddings.
        feature_names_in_: their names, when ``fit`` saw names.

    A fitted transformer with a file is pickled without it, and finds it again under the same path.

    Examples:
        >>> import numpy as np
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from vaecodec_integrations.sklearn import CodecTransformer
        >>> embeddings = np.load("embeddings.npy")
        >>> labels = embeddings[:, 0] > 0
        >>> pipeline = make_pipeline(CodecTransformer("codec.onnx"), LogisticRegression()).fit(embeddings, labels)
        >>> pipeline.score(embeddings, labels) > 0.7
        True
    """

    def __init__(
        self,
        codec: str | os.PathLike[str] | None = None,
        *,
        n_components: int | None = None,
        kind: str = "svd",
        metric: str = "cosine",
    ) -> None:
        self.codec = codec
        self.n_components = n_components
        self.kind = kind
        self.metric = metric

    def fit(self, X: Any, y: Any = None) -> CodecTransformer:  # noqa: ARG002
        """Fit a linear codec, or load the file and check that it takes such data.

        Args:
            X: float (n_samples, n_features), dense and finite.
            y: ignored.

        Raises:
            InvalidDimensionError: ``n_components`` is not a width that the codec can have.
            ArtifactError: the file cannot be used.
            ValueError: X is not such an array; or ``kind`` or ``metric`` is unknown.
        """
        X = validate_data(self, _plain(X), dtype=[np.float64, np.float32])
        if self.codec is not None:
            codec: VectorCodec = Codec.load(self.codec, dim=self.n_components)
            codec.encode(X[:1])
        else:
            width = X.shape[1] if self.n_components is None else self.n_components
            codec = fit_linear(X, width, kind=LinearKind(self.kind), metric=Metric(self.metric))
        self.codec_ = codec
        return self

    def transform(self, X: Any) -> FloatArray:
        """Encode embeddings, float (n_samples, n_features), to latents, float32 (n_samples, n_components)."""
        check_is_fitted(self)
        return self.codec_.encode(validate_data(self, _plain(X), dtype=[np.float64, np.float32], reset=False))

    def inverse_transform(self, X: Any) -> FloatArray:
        """Decode latents, float (n_samples, n_components), to reconstructions, float32 (n_samples, n_features)."""
        check_is_fitted(self)
        return self.codec_.decode(as_rows(X))

    @property
    def _n_features_out(self) -> int:
        return self.codec_.code_dim

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if isinstance(state.get("codec_"), Codec):
            state = {**state, "codec_": None, "codec_id_": state["codec_"].codec_id}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        expected = state.pop("codec_id_", None)
        super().__setstate__(state)
        if expected is not None:
            self.codec_ = Codec.load(state["codec"], dim=self.n_components)
            if self.codec_.codec_id != expected:
                raise CodecMismatchError(
                    f"{self.codec}: expected codec {expected[:12]}, which the transformer was fitted with, got codec "
                    f"{self.codec_.codec_id[:12]}; put the file back, or fit again"
                )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _plain(X: Any) -> Any:
    """Return as an array what scikit-learn would misread; return unchanged what it knows, such as frames with names."""
    if hasattr(X, "columns") or hasattr(X, "tocsr"):
        return X
    array = as_array(X, name="X")
    if array.dtype.kind in "USb":  # scikit-learn would convert these to numbers
        raise NotFloatingPointError(f"X: expected floating point values, got dtype {array.dtype}")
    return array
