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
    ├── SourceError                      vectors cannot be read from where they are kept
    │   ├── SourceNotFoundError          (FileNotFoundError) there is no such file, or no file in the folder
    │   ├── UnknownSourceError           (ValueError) nothing here reads that suffix or address
    │   ├── MalformedSourceError         (ValueError) the content is not what the format demands
    │   ├── TruncatedSourceError         (ValueError) the file ends before its header says
    │   ├── PickledSourceError           (ValueError) the file holds Python objects
    │   ├── RaggedVectorsError           (ValueError) rows differ in width
    │   ├── MissingVectorError           (ValueError) a row has no vector
    │   ├── MissingColumnError           (LookupError) there is no column of that name
    │   ├── NoVectorColumnError          (LookupError) no column holds vectors
    │   └── AmbiguousColumnError         (LookupError) several columns hold vectors
    ├── BulkError                        a collection could not be encoded or decoded as a whole
    │   ├── BadRowsError                 (ValueError) rows that cannot be encoded, by file and number
    │   ├── BulkStoppedError             (RuntimeError) stopped half-way; what is finished is kept
    │   ├── ChangedJobError              (ValueError) not the job that is to be resumed
    │   └── WorkersLostError             (RuntimeError) processes elsewhere that work on it are gone
    ├── OutputIsInputError               (ValueError) the output is an input, lies within one, or holds one
    ├── OutputExistsError                (FileExistsError) something else is where the output should go
    ├── OutputBusyError                  (RuntimeError) another process is writing this output
    ├── UnusableDataError                (ValueError) a collection cannot be trained on
    ├── TrainingError                    a codec cannot be trained
    │   ├── RecipeError                  (ValueError) a recipe has an unknown key or a value out of range
    │   ├── CheckpointError              (ValueError) a run folder cannot be read or continued
    │   └── DivergedError                (RuntimeError) training stayed unstable after every remedy
    ├── InvalidDimensionError            (ValueError) the codec has no such latent width
    ├── CodesError                       latents cannot be turned into bytes, or back
    │   ├── InvalidBudgetError           (ValueError) no code of that size or kind exists for this codec
    │   ├── InvalidCodesError            (ValueError) an array is not codes of the expected kind
    │   └── NotCalibratedError           (ValueError) the codec holds no calibration for codes
    ├── NoReferenceError                 (ValueError) the codec holds no statistics to find drift by
    ├── UnsupportedPrecisionError        (ValueError) a codec cannot be written in numbers of that size
    ├── UnfusableModelError              (ValueError) an embedding model cannot be joined with a codec
    ├── ParityError                      (RuntimeError) an exported graph does not compute what the codec computes
    ├── InvalidDeviceError               (ValueError) there is no such device to run a codec on
    ├── ProviderNotAvailableError        (RuntimeError) onnxruntime lacks the provider asked for
    ├── CodecMismatchError               (ValueError) an index was filled by another codec
    ├── VectorIndexError                 (RuntimeError) an index cannot do what was asked; hnswlib's own type
    │   ├── IndexNotReadyError           neither init_index nor load_index was called
    │   ├── IndexFullError               more elements than fit
    │   ├── LabelError                   (ValueError) ids of the wrong form or state
    │   ├── NotEnoughNeighboursError     fewer elements found than wanted
    │   ├── SpaceMismatchError           (ValueError) the space does not fit the codec
    │   ├── InvalidSearchError           (ValueError) a search with impossible arguments
    │   └── IndexFileError               (ValueError) a saved index cannot be loaded
    ├── ReportInputError                 (ValueError) what a report was asked to measure does not fit together
    ├── PlanInputError                   (ValueError) what a plan was asked for does not fit together
    ├── UntranslatableError              (TypeError) a request carries vectors that no codec can encode
    ├── UnsupportedRequestError          (ValueError) a request that compressed vectors cannot answer
    ├── OriginalsError                   (ValueError) a file of originals cannot be used
    │   └── MissingOriginalsError        (LookupError) points without a row in the file of originals
    ├── StoreError                       (RuntimeError) a database cannot be opened, or refuses a request
    │   ├── StoreUnreachableError        (ConnectionError) the server does not answer
    │   ├── StoreAccessError             (PermissionError) the server refuses the key
    │   └── CollectionNotFoundError      (LookupError) there is no such collection
    ├── MigrationError                   (RuntimeError) a collection cannot be migrated
    └── MissingExtraError                (ImportError) an optional library is not installed

    SaturationWarning                    (UserWarning) codes clip many of the vectors
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


class SourceError(VaecodecError):
    """Vectors cannot be read from where they are kept."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no such file, or the folder holds none that can be read."""


class UnknownSourceError(SourceError, ValueError):
    """Neither the suffix nor the address's scheme is one that anything installed reads."""


class MalformedSourceError(SourceError, ValueError):
    """The content is not what the file's format demands."""


class TruncatedSourceError(SourceError, ValueError):
    """The file ends before its header says."""


class PickledSourceError(SourceError, ValueError):
    """The file holds Python objects, which are never loaded."""


class RaggedVectorsError(SourceError, ValueError):
    """The rows differ in width."""


class MissingVectorError(SourceError, ValueError):
    """A row has no vector."""


class MissingColumnError(SourceError, LookupError):
    """There is no column of the name asked for."""


class NoVectorColumnError(SourceError, LookupError):
    """No column holds vectors."""


class AmbiguousColumnError(SourceError, LookupError):
    """Several columns hold vectors and none was named."""


class BulkError(VaecodecError):
    """A collection could not be encoded or decoded as a whole."""


class BadRowsError(BulkError, ValueError):
    """Rows of a collection cannot be encoded or decoded; the message names files and rows."""


class BulkStoppedError(BulkError, RuntimeError):
    """The work stopped half-way and can be resumed; ``__cause__`` is what stopped it."""


class WorkersLostError(BulkError, RuntimeError):
    """Workers of another process or machine failed more often than they are replaced, or do not see the same files."""


class ChangedJobError(BulkError, ValueError):
    """The unfinished output was begun with other input, another codec or other options."""


class OutputBusyError(VaecodecError, RuntimeError):
    """Another process is writing this output."""


class OutputExistsError(VaecodecError, FileExistsError):
    """Something else is where the output should go."""


class OutputIsInputError(VaecodecError, ValueError):
    """The output is one of the inputs, lies within one, or holds one."""


class UnusableDataError(VaecodecError, ValueError):
    """A collection holds rows that cannot be trained on, or too few."""


class TrainingError(VaecodecError):
    """A codec cannot be trained."""


class RecipeError(TrainingError, ValueError):
    """A recipe has an unknown key, or a value of the wrong type or out of range."""


class CheckpointError(TrainingError, ValueError):
    """A run folder is missing, damaged, or belongs to another recipe or collection."""


class DivergedError(TrainingError, RuntimeError):
    """Training stayed unstable although the learning rate was lowered several times."""


class InvalidDimensionError(VaecodecError, ValueError):
    """The codec has no latents of the width asked for."""


class CodesError(VaecodecError):
    """Latents cannot be turned into bytes, or back."""


class InvalidBudgetError(CodesError, ValueError):
    """No code of the size or kind asked for exists for this codec."""


class InvalidCodesError(CodesError, ValueError):
    """An array is not codes of the kind expected."""


class SaturationWarning(UserWarning):
    """More than a stated share of the vectors lies outside the range that a code was calibrated for."""


class NotCalibratedError(CodesError, ValueError):
    """The codec holds no calibration for codes."""


class NoReferenceError(VaecodecError, ValueError):
    """The codec holds no statistics of its training data, or not for this width, so that nothing can be compared."""


class UnsupportedPrecisionError(VaecodecError, ValueError):
    """A codec's weights or inputs do not fit the floating point type that it should be exported in."""


class UnfusableModelError(VaecodecError, ValueError):
    """An embedding model cannot be joined with a codec."""


class ParityError(VaecodecError, RuntimeError):
    """An exported graph does not compute what the codec computes; no file was written."""


class InvalidDeviceError(VaecodecError, ValueError):
    """The device to run a codec on is not one that is known, or is named twice."""


class ProviderNotAvailableError(VaecodecError, RuntimeError):
    """onnxruntime lacks the execution provider asked for, or could not start it."""


class CodecMismatchError(VaecodecError, ValueError):
    """An index or collection was filled by another codec."""


class MissingExtraError(VaecodecError, ImportError):
    """An optional library is not installed."""


class VectorIndexError(VaecodecError, RuntimeError):
    """A vector index cannot do what was asked of it."""


class IndexNotReadyError(VectorIndexError):
    """The index was neither initialised nor loaded."""


class IndexFullError(VectorIndexError):
    """More elements than the index has room for."""


class LabelError(VectorIndexError, ValueError):
    """Ids of the wrong shape or type, unknown ids, or ids of deleted elements."""


class NotEnoughNeighboursError(VectorIndexError):
    """A query finds fewer elements than were asked for."""


class SpaceMismatchError(VectorIndexError, ValueError):
    """The index's space is not the distance that the codec was made for."""


class InvalidSearchError(VectorIndexError, ValueError):
    """A search was asked for with impossible arguments."""


class IndexFileError(VectorIndexError, ValueError):
    """A file is not a saved index, is damaged, or is of a newer format."""


class ReportInputError(VaecodecError, ValueError):
    """What a report was asked to measure does not fit together."""


class PlanInputError(VaecodecError, ValueError):
    """What a plan was asked for does not fit together."""


class UntranslatableError(VaecodecError, TypeError):
    """A request carries vectors in a form that no codec can encode, such as text to be embedded by a server."""


class UnsupportedRequestError(VaecodecError, ValueError):
    """A request that a collection of compressed vectors cannot answer or hold."""


class OriginalsError(VaecodecError, ValueError):
    """A file of original vectors cannot be used."""


class MissingOriginalsError(OriginalsError, LookupError):
    """Points have no row in the file of original vectors."""


class StoreError(VaecodecError, RuntimeError):
    """A database cannot be opened, or refuses a request."""


class StoreUnreachableError(StoreError, ConnectionError):
    """The database's server does not answer."""


class StoreAccessError(StoreError, PermissionError):
    """The database's server refuses the key."""


class CollectionNotFoundError(StoreError, LookupError):
    """The database has no collection of that name."""


class MigrationError(VaecodecError, RuntimeError):
    """A collection cannot be migrated as asked."""
