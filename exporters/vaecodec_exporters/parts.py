"""Cut a codec file into one ONNX file per entry point.

The inputs of a codec file are optional, which some runtimes and every batching server cannot feed (docs/serving.md). A
part has one required input and one output, and computes the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.utils import Extractor

from vaecodec.artifact import PART, read_artifact
from vaecodec.errors import ExportError, OutputExistsError
from vaecodec.files import write_atomically
from vaecodec.files.outputs import check_is_folder
from vaecodec.graph.nodes import Precision
from vaecodec_exporters.graph import PARITY_BATCHES, PARITY_BOUNDS, start, unit_rows
from vaecodec_exporters.output import refuse_existing

PARTS = {
    "encode": ("embedding", "latent"),
    "encode_queries": ("query", "query_latent"),
    "decode": ("code", "reconstruction"),
}
"""What a part does, and the input and the output of the codec file that it keeps."""


def write_parts(
    codec: str | os.PathLike[str], folder: str | os.PathLike[str], *, overwrite: bool = False
) -> list[Path]:
    """Write ``encode.onnx``, ``encode_queries.onnx`` and ``decode.onnx``, the entry points of a codec file.

    Each keeps the metadata, so that ``vaecodec.codec_id`` names the codec, and says in ``vaecodec.part`` which one it
    is. The checksum is the whole file's: :meth:`vaecodec.Codec.load` refuses a part.

    Args:
        codec: the codec file, which is verified.
        folder: where the parts go; made when it is not there.
        overwrite: replace parts of another codec in ``folder``.

    Returns:
        The files written, in the order above.

    Raises:
        OutputExistsError: ``folder`` is a file, or the codec file itself would be replaced; or parts of another codec
            are there and ``overwrite`` is False, or other files of that name.
        ArtifactError: the codec file is missing, damaged, foreign or too new; a subclass says which.
        ExportError: a part does not compute what the whole computes; no file was written.
    """
    folder = Path(folder)
    check_is_folder(folder)
    if Path(codec).resolve() in {(folder / f"{name}.onnx").resolve() for name in PARTS}:
        raise OutputExistsError(f"{codec}: is the input itself, which would be replaced; choose another folder")
    data, _ = read_artifact(codec)
    whole, model = start(data), onnx.load_from_string(data)
    parts = {name: cut(model, *ends) for name, ends in PARTS.items()}
    for name, part in parts.items():
        _check(whole, start(part), *PARTS[name])
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        refuse_existing(folder / f"{name}.onnx", overwrite=overwrite, data=part)
    for name, part in parts.items():
        write_atomically(folder / f"{name}.onnx", part)
    return [folder / f"{name}.onnx" for name in parts]


def cut(model: onnx.ModelProto, feed: str, fetch: str) -> bytes:
    """Cut one entry point out of a codec: a model of one required input and one output."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    # Remove the default, which makes the input optional.
    whole.graph.initializer.remove(next(tensor for tensor in whole.graph.initializer if tensor.name == feed))
    part = Extractor(whole).extract_model([feed], [fetch])
    part.metadata_props.extend(model.metadata_props)
    part.metadata_props.add(key=PART, value=feed)
    onnx.checker.check_model(part, full_check=True)
    return bytes(part.SerializeToString(deterministic=True))


def _check(whole: onnxruntime.InferenceSession, part: onnxruntime.InferenceSession, feed: str, fetch: str) -> None:
    (entry,) = part.get_inputs()
    for size in PARITY_BATCHES:
        rows = unit_rows(size, entry.shape[1])
        expected, computed = (graph.run([fetch], {feed: rows})[0] for graph in (whole, part))
        if not np.abs(expected - computed).max(initial=0) <= PARITY_BOUNDS[Precision.FLOAT32]:
            raise ExportError(f"the part '{feed}' differs from the codec file on {size} rows; no file was written")
