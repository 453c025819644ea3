"""List every error that vaecodec raises on purpose.

::

    VaecodecError
    ├── ArtifactError                    a codec file cannot be used
    │   ├── ArtifactNotFoundError        (FileNotFoundError) there is no such file
    │   ├── UnsupportedFormatError       (ValueError) written by a newer vaecodec
    │   └── InvalidArtifactError         (ValueError) not a codec file, damaged, or with content that is not allowed
    ├── NotCalibratedError               (ValueError) the codec file lacks statistics for codes, scores or drift
    ├── InvalidDimensionError            (ValueError) the codec has no such latent width
    ├── InvalidBudgetError               (ValueError) the codec has no code of that size or kind
    ├── InvalidOptionError               (ValueError) options contradict each other, or one has a value out of range
    ├── CodecMismatchError               (ValueError) a file, index or collection was made by another codec
    ├── DeviceError                      (RuntimeError) a codec cannot run on the device asked for
    ├── ExportError                      (RuntimeError) a codec cannot be written as asked, and was not
    ├── InvalidVectorsError              (ValueError) an array cannot be encoded or decoded
    │   ├── NotFloatingPointError        (TypeError) the array holds integers or objects
    │   ├── WrongWidthError              the rows are not as wide as the codec expects
    │   └── BadRowsError                 rows hold NaN or infinity, have no direction, or have no vector
    ├── SourceError                      vectors cannot be read from where they are kept
    │   ├── SourceNotFoundError          (FileNotFoundError) there is no such file, or no file in the folder
    │   ├── UnknownSourceError           (ValueError) nothing here reads that suffix or address
    │   ├── MalformedSourceError         (ValueError) the content is not what the format demands
    │   ├── MissingColumnError           (LookupError) there is no such column, or none holds vectors
    │   └── AmbiguousColumnError         (LookupError) several columns hold vectors
    ├── BulkStoppedError                 (RuntimeError) a job stopped half-way; what is finished is kept
    ├── OutputExistsError                (FileExistsError) something else is where the output should go
    ├── OutputBusyError                  (RuntimeError) another process is writing this output
    ├── UnusableDataError                (ValueError) a collection cannot be trained on
    ├── TrainingError                    a codec cannot be trained
    │   ├── RecipeError                  (ValueError) a recipe has an unknown key or a value out of range
    │   ├── CheckpointError              (ValueError) a run folder cannot be read or continued
    │   └── DivergedError                (RuntimeError) training stayed unstable after every remedy
    ├── VectorIndexError                 (RuntimeError) an index cannot do what was asked; hnswlib's own type
    │   ├── IndexArgumentError           (ValueError) the index does not accept these ids or arguments
    │   └── IndexFileError               (ValueError) a saved index cannot be loaded
    ├── EvaluationInputError             (ValueError) the inputs of a report or a plan do not fit together
    │   └── InvalidGoalError             a goal asks for nothing, or for what cannot be
    ├── UnsupportedRequestError          (ValueError) compressed vectors cannot answer this request
    ├── OriginalsError                   (ValueError) a file of originals cannot be used
    │   └── MissingOriginalsError        (LookupError) points have no row in the file of originals
    ├── StoreError                       (RuntimeError) a database cannot be opened, does not answer, or refuses
    │   └── CollectionNotFoundError      (LookupError) there is no such collection
    ├── MigrationError                   (RuntimeError) a collection cannot be migrated
    └── MissingExtraError                (ImportError) an optional library is not installed

    SaturationWarning                    (UserWarning) codes clip many of the vectors
"""

from __future__ import annotations


class VaecodecError(Exception):
    """Catch every error that vaecodec raises on purpose: this is their base class."""


class ArtifactError(VaecodecError):
    """A codec file cannot be used."""


class ArtifactNotFoundError(ArtifactError, FileNotFoundError):
    """There is no file at the path given."""


class UnsupportedFormatError(ArtifactError, ValueError):
    """The file was written in a format newer than this version reads."""


class InvalidArtifactError(ArtifactError, ValueError):
    """The file is not a codec file, is damaged, or has content that a codec file may not have."""


class NotCalibratedError(VaecodecError, ValueError):
    """The codec file lacks the statistics that codes, scores or drift need beside its weights."""


class InvalidDimensionError(VaecodecError, ValueError):
    """The codec has no latents of the width asked for."""


class InvalidBudgetError(VaecodecError, ValueError):
    """The codec has no code of the size or kind asked for."""


class InvalidOptionError(VaecodecError, ValueError):
    """Options contradict each other, would be ignored, or have a value out of range."""


class CodecMismatchError(VaecodecError, ValueError):
    """A file, an index or a collection was made by another codec."""


class DeviceError(VaecodecError, RuntimeError):
    """The device is unknown or named twice, or onnxruntime cannot run on it."""


class ExportError(VaecodecError, RuntimeError):
    """A codec cannot be written as asked; no file was written."""


class InvalidVectorsError(VaecodecError, ValueError):
    """An array cannot be encoded or decoded."""


class NotFloatingPointError(InvalidVectorsError, TypeError):
    """The array's dtype is not a floating point type."""


class WrongWidthError(InvalidVectorsError):
    """The rows are not as wide as the codec expects."""


class BadRowsError(InvalidVectorsError):
    """Rows hold NaN or infinity, have no direction although the metric is cosine, or have no vector."""


class SourceError(VaecodecError):
    """Vectors cannot be read from where they are kept."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no such file, or the folder holds none that can be read."""


class UnknownSourceError(SourceError, ValueError):
    """Neither the suffix nor the address's scheme is one that anything installed reads."""


class MalformedSourceError(SourceError, ValueError):
    """The content is not what the file's format demands, or ends too early."""


class MissingColumnError(SourceError, LookupError):
    """There is no column of the name asked for, or no column holds vectors."""


class AmbiguousColumnError(SourceError, LookupError):
    """Several columns hold vectors and none was named.

    Attributes:
        location: the file or address that was to be opened, as it was given; empty where not known.
        queries: whether it was opened for queries.
    """

    location: str = ""
    queries: bool = False


class BulkStoppedError(VaecodecError, RuntimeError):
    """The work stopped half-way and can be resumed; ``__cause__`` is what stopped it."""


class OutputExistsError(VaecodecError, FileExistsError):
    """Writing the output would touch files that are not its own."""


class OutputBusyError(VaecodecError, RuntimeError):
    """Another process is writing this output."""


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


class VectorIndexError(VaecodecError, RuntimeError):
    """A vector index cannot do what was asked of it."""


class IndexArgumentError(VectorIndexError, ValueError):
    """The index does not accept these ids, this space or these search arguments."""


class IndexFileError(VectorIndexError, ValueError):
    """A file is not a saved index, is damaged, or is of a newer format."""


class EvaluationInputError(VaecodecError, ValueError):
    """The inputs of a report or a plan do not fit together."""


class InvalidGoalError(EvaluationInputError):
    """A goal of a plan asks for nothing, or for what cannot be."""


class UnsupportedRequestError(VaecodecError, ValueError):
    """A collection of compressed vectors cannot answer or hold what was requested."""


class OriginalsError(VaecodecError, ValueError):
    """A file of original vectors cannot be used."""


class MissingOriginalsError(OriginalsError, LookupError):
    """Points have no row in the file of original vectors."""


class StoreError(VaecodecError, RuntimeError):
    """A database cannot be opened, does not answer, or refuses a key or a request."""


class CollectionNotFoundError(StoreError, LookupError):
    """The database has no collection of that name."""


class MigrationError(VaecodecError, RuntimeError):
    """A collection cannot be migrated as asked."""


class MissingExtraError(VaecodecError, ImportError):
    """An optional library is not installed."""


class SaturationWarning(UserWarning):
    """More than a stated share of the vectors lies outside the range that a code was calibrated for."""
