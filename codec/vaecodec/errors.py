"""Every error that vaecodec raises on purpose.

::

    VaecodecError
    ├── ArtifactError                    a codec file cannot be used
    │   ├── ArtifactNotFoundError        (FileNotFoundError) there is no such file
    │   ├── NotOnnxError                 (ValueError) the file is not an ONNX model
    │   ├── ForeignOnnxError             (ValueError) an ONNX model that vaecodec did not write
    │   ├── UnsupportedFormatError       (ValueError) written by a newer vaecodec
    │   ├── CorruptArtifactError         (ValueError) the checksum does not match
    │   └── ExternalDataError            (ValueError) weights are kept outside the file
    ├── InvalidVectorsError              (ValueError) an array cannot be encoded or decoded
    │   ├── NotTwoDimensionalError       the array is not (n, d)
    │   ├── NotFloatingPointError        (TypeError) the array holds integers or objects
    │   ├── WrongWidthError              the rows are not as wide as the codec expects
    │   ├── NonFiniteError               a row holds NaN or infinity
    │   └── ZeroNormError                a row has no direction, and the metric is cosine
    ├── InvalidDimensionError            (ValueError) the codec has no such latent width
    ├── ProviderNotAvailableError        (RuntimeError) onnxruntime lacks the provider asked for
    ├── CodecMismatchError               (ValueError) an index was filled by another codec
    └── MissingExtraError                (ImportError) an optional library is not installed
"""

from __future__ import annotations


class VaecodecError(Exception):
    """Base class of every error that vaecodec raises on purpose."""


class ArtifactError(VaecodecError):
    """A codec file cannot be used."""


class ArtifactNotFoundError(ArtifactError, FileNotFoundError):
    """There is no file at the path given."""


class NotOnnxError(ArtifactError, ValueError):
    """The file is not an ONNX model."""


class ForeignOnnxError(ArtifactError, ValueError):
    """The file is an ONNX model, but vaecodec did not write it."""


class UnsupportedFormatError(ArtifactError, ValueError):
    """The file was written in a format newer than this version reads."""


class CorruptArtifactError(ArtifactError, ValueError):
    """The file's checksum does not match its content."""


class ExternalDataError(ArtifactError, ValueError):
    """The file refers to weights outside itself."""


class InvalidVectorsError(VaecodecError, ValueError):
    """An array cannot be encoded or decoded."""


class NotTwoDimensionalError(InvalidVectorsError):
    """The array is not two-dimensional."""


class NotFloatingPointError(InvalidVectorsError, TypeError):
    """The array's dtype is not a floating point type."""


class WrongWidthError(InvalidVectorsError):
    """The rows are not as wide as the codec expects."""


class NonFiniteError(InvalidVectorsError):
    """A row holds NaN or infinity, or its norm overflows float32."""


class ZeroNormError(InvalidVectorsError):
    """A row has no direction although the metric is cosine."""


class InvalidDimensionError(VaecodecError, ValueError):
    """The codec has no latents of the width asked for."""


class ProviderNotAvailableError(VaecodecError, RuntimeError):
    """onnxruntime lacks the execution provider asked for, or could not start it."""


class CodecMismatchError(VaecodecError, ValueError):
    """An index or collection was filled by another codec."""


class MissingExtraError(VaecodecError, ImportError):
    """An optional library is not installed."""
