"""Test where codec files are written: no other codec is lost, nor a file of somebody else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec, fit_linear
from vaecodec.errors import OutputExistsError
from vaecodec.sources import ArraySource
from vaecodec.two_models.bridge import fit_bridge
from vaecodec_cli.main import main
from vaecodec_exporters.bridge import export_bridge, fit_and_export_bridge
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_exporters.linear import export_linear, fit_and_export_linear
from vaecodec_exporters.output import refuse_existing, write_codec_file
from vaecodec_exporters.parts import write_parts


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(600, 12)).astype(np.float32)


@pytest.fixture
def old(rows: np.ndarray, tmp_path: Path) -> Path:
    """Write a codec file that some index depends on."""
    export_linear(fit_linear(rows, 4), tmp_path / "codec.onnx")
    return tmp_path / "codec.onnx"


Write = Callable[[Path, bool], object]


@pytest.fixture(params=["linear", "fitted linear", "checkpoint", "bridge", "fitted bridge"])
def write(request: pytest.FixtureRequest, rows: np.ndarray, vae_run: Path) -> Write:
    """Call each library function that writes a codec file, with the target and whether it may be overwritten."""
    other = fit_linear(rows, 5)

    def bridge(path: Path, overwrite: bool) -> None:
        fitted, figures = fit_bridge(fit_linear(rows, 6), other, rows)
        export_bridge(fitted, path, figures, overwrite=overwrite)

    def fitted_bridge(path: Path, overwrite: bool) -> None:
        for name, dim in (("from", 5), ("to", 6)):
            export_linear(fit_linear(rows, dim), path.with_name(f"{name}.onnx"), overwrite=True)
        old, new = (path.with_name(f"{name}.onnx") for name in ("from", "to"))
        fit_and_export_bridge(old, new, path, ArraySource(rows), overwrite=overwrite)

    return {
        "linear": lambda path, overwrite: export_linear(other, path, overwrite=overwrite),
        "fitted linear": lambda path, overwrite: fit_and_export_linear(ArraySource(rows), path, 5, overwrite=overwrite),
        "checkpoint": lambda path, overwrite: export_checkpoint(vae_run, path, overwrite=overwrite),
        "bridge": bridge,
        "fitted bridge": fitted_bridge,
    }[request.param]


def test_another_codec_is_replaced_on_request_only(write: Write, old: Path) -> None:
    known = Codec.load(old).codec_id
    with pytest.raises(OutputExistsError, match=rf"the codec {known[:12]}… is there, and only it can read the indexes"):
        write(old, False)
    assert Codec.load(old).codec_id == known
    write(old, True)
    assert Codec.load(old).codec_id != known


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_codec_is_never_replaced(write: Write, overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"a codec file to replace, but something else is there"):
        write(tmp_path / "notes.onnx", overwrite)
    assert (tmp_path / "notes.onnx").read_text() == "mine"
    with pytest.raises(OutputExistsError, match=r"a codec file to replace, but something else is there"):
        write(tmp_path, overwrite)


def test_a_bridge_never_replaces_a_codec_that_it_joins(rows: np.ndarray, old: Path, tmp_path: Path) -> None:
    export_linear(fit_linear(rows, 5), tmp_path / "new.onnx")
    codecs = Codec.load(old), Codec.load(tmp_path / "new.onnx")
    for path in (old, tmp_path / "new.onnx"):
        before = path.read_bytes()
        with pytest.raises(OutputExistsError, match="is an input, which is never overwritten"):
            fit_and_export_bridge(*codecs, path, ArraySource(rows), overwrite=True)
        assert path.read_bytes() == before


def test_the_same_codec_may_be_written_again(rows: np.ndarray, old: Path) -> None:
    known = old.read_bytes()
    export_linear(fit_linear(rows, 4), old)
    assert old.read_bytes() == known


def test_a_damaged_codec_counts_as_a_codec(old: Path) -> None:
    data = bytearray(old.read_bytes())
    data[1_000] ^= 1
    old.write_bytes(data)
    with pytest.raises(OutputExistsError, match="a codec file that this version does not read is there"):
        refuse_existing(old, overwrite=False)
    write_codec_file(old, b"new", overwrite=True)
    assert old.read_bytes() == b"new"


def test_the_parts_of_another_codec_are_replaced_on_request_only(rows: np.ndarray, old: Path, tmp_path: Path) -> None:
    export_linear(fit_linear(rows, 5), tmp_path / "new.onnx")
    files = write_parts(old, tmp_path / "parts")
    assert write_parts(old, tmp_path / "parts") == files
    before = [file.read_bytes() for file in files]
    with pytest.raises(OutputExistsError, match=r"encode\.onnx: a codec file .* is there"):
        write_parts(tmp_path / "new.onnx", tmp_path / "parts")
    assert [file.read_bytes() for file in files] == before
    write_parts(tmp_path / "new.onnx", tmp_path / "parts", overwrite=True)
    assert [file.read_bytes() for file in files] != before


@pytest.mark.parametrize(
    "arguments",
    [
        ["linear", "rows.npy", "--dim", "5", "--out", "codec.onnx"],
        ["export", "RUN", "--out", "codec.onnx"],
        ["bridge", "first.onnx", "new.onnx", "--sample", "rows.npy", "--out", "codec.onnx"],
        ["train", "rows.npy", "--dim", "5", "--epochs", "1", "--out", "run", "--export", "codec.onnx"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_keep_the_codec_that_is_there(
    arguments: list[str],
    old: Path,
    rows: np.ndarray,
    vae_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(old.parent)
    np.save("rows.npy", rows)
    export_linear(fit_linear(rows, 5), "new.onnx")
    export_linear(fit_linear(rows, 6), "first.onnx")
    known = Codec.load(old).codec_id
    with pytest.raises(SystemExit) as ended:
        main([str(vae_run) if argument == "RUN" else argument for argument in arguments])
    assert ended.value.code == 1
    assert f"codec.onnx: the codec {known[:12]}… is there" in capsys.readouterr().err
    assert Codec.load(old).codec_id == known
    assert not Path("run").exists()  # refused before anything was trained


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, overwrite: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputExistsError, match="expected a new name, or a codec file to replace, but something else"):
        refuse_existing(tmp_path / "pipe", overwrite=overwrite)
