"""Send a whole collection through a codec: files in, files out, in constant memory, resumable at any moment.

The input is cut into *shards*: row ranges of a matrix, or consecutive row groups of a Parquet file. A few workers,
threads unless other :class:`~vaecodec.bulk.threads.Workers` are given, each take a shard through reading, encoding and
writing, so these overlap. Everything is written into a folder beside
the output, ``OUT.partial``:

- ``part-00000.npy`` or ``.parquet``: one file per shard, renamed to that name when it is complete;
- ``_manifest.jsonl``: a first line that describes the job, then a line per finished shard with the SHA-256 of its file;
- ``part-00000.bad-rows.csv``: the rows that a shard lacks;
- ``_lock``: locked while a process is at work here.

When all shards are finished, the output takes its own name in one rename; until then there is no file of that name. A
shard's content does not depend on the number of workers nor on when it is made, so an interrupted and resumed job ends
with the same bytes as an uninterrupted one, given a codec whose calls are deterministic (``Codec.load(threads=1)``).
"""

from vaecodec.bulk.job import BulkOptions, BulkResult, OnProgress, decode, encode
from vaecodec.bulk.threads import Threads, Workers
from vaecodec.sources.bad_rows import OnBadRows

__all__ = ["BulkOptions", "BulkResult", "OnBadRows", "OnProgress", "Threads", "Workers", "decode", "encode"]
