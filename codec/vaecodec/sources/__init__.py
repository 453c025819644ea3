"""Read vectors from files, folders and collections: one small protocol, and a reader for each format.

Everything that reads a collection (training, bulk encoding, reports) takes a :class:`VectorSource`. A source yields
blocks, so a file larger than memory is read in constant memory.

========================  ==============================================================================
``.npy``                  mapped, C or Fortran order
``.npz``                  read whole (its arrays are compressed)
``.fvecs``, ``.bvecs``    each row led by its width, int32; float32 or uint8 values
``.fbin``, ``.ibin``      rows and width, uint32 each, then float32 or int32 values
``.hdf5``, ``.h5``        ann-benchmarks' layout (dataset ``train``) or any 2-D dataset; extra ``hdf5``
``.parquet`` or a folder  a list or fixed-size-list column; extra ``parquet``
``scheme://...``          what an installed package offers in the entry-point group ``vaecodec.sources``
========================  ==============================================================================

All binary formats are little endian. The integers of ``.bvecs`` and ``.ibin`` are values by the format's own
definition and are read as float32. Integers anywhere else are refused, because they are more often
identifiers or uncalibrated codes than vectors.
"""

from vaecodec.sources.base import ArraySource, RandomAccessSource, Rows, VectorSource
from vaecodec.sources.open import open_source
from vaecodec.sources.sampling import sample_rows

__all__ = ["ArraySource", "RandomAccessSource", "Rows", "VectorSource", "open_source", "sample_rows"]
