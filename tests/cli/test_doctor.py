"""Test ``vaecodec doctor``: what is missing is said, what is broken is an exit code."""

from __future__ import annotations

import json
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import onnx
import pytest

from vaecodec import doctor
from vaecodec_cli.main import main


def examined(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int, **extras: str) -> Any:
    """Return the answer as JSON, for some extras of which a module of each is imported."""
    monkeypatch.setattr("vaecodec.doctor.EXTRAS", {name: ((module,), "a test") for name, module in extras.items()})
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert ended.value.code == code
    return json.loads(capsys.readouterr().out)


def test_every_extra_is_known() -> None:
    assert set(doctor.EXTRAS) == set(metadata("vaecodec").get_all("Provides-Extra") or ()) - {"all"}


def test_what_works_and_what_is_missing(capsys, monkeypatch) -> None:
    found = examined(capsys, monkeypatch, 0, hnsw="hnswlib", gpu="onnxruntime")
    assert found["healthy"]
    assert found["troubles"] == []
    assert found["versions"]["vaecodec"] == version("vaecodec")
    assert found["versions"]["onnxruntime"] == version("onnxruntime")
    providers = {provider["name"]: provider for provider in found["providers"]}
    assert providers["CPUExecutionProvider"]["works"]
    # It is listed by every build, and computes nothing here.
    azure = providers.get("AzureExecutionProvider", {"works": False, "problem": "it leaves the work to the CPU"})
    assert (azure["works"], azure["problem"]) == (False, "it leaves the work to the CPU")
    hnsw, gpu = found["extras"]
    assert (hnsw["versions"], hnsw["missing"]) == ({"hnswlib": version("hnswlib")}, [])
    assert gpu["missing"] == ["onnxruntime-gpu"]
    assert 1 <= found["usable_cores"] <= found["cores"]


def test_a_library_that_cannot_be_imported_is_trouble(capsys, monkeypatch) -> None:
    found = examined(capsys, monkeypatch, 3, hnsw="hnswlib.gone", hdf5="h5py")
    assert not found["healthy"]
    (trouble,) = found["troubles"]
    assert trouble.startswith("extra hnsw: 'import hnswlib.gone' failed: ModuleNotFoundError: No module named")


def test_files_of_the_current_folder_are_not_run(capsys, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "hnswlib.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    assert examined(capsys, monkeypatch, 0, hnsw="hnswlib")["healthy"]
    assert not (tmp_path / "ran").exists()


def test_a_library_that_is_too_old_is_trouble(capsys, monkeypatch) -> None:
    required = ["numpy>=1.26", "onnxruntime>=1.20", "hnswlib>=9; extra == 'hnsw'"]
    monkeypatch.setattr("vaecodec.doctor.requires", lambda _: required)
    found = examined(capsys, monkeypatch, 3, hnsw="hnswlib")
    assert found["troubles"] == [f"extra hnsw: hnswlib {version('hnswlib')} is installed, and >=9 is needed"]


def test_people_get_a_table(capsys, monkeypatch) -> None:
    monkeypatch.setattr("vaecodec.doctor.EXTRAS", {"gpu": (("onnxruntime",), "encoding on an NVIDIA GPU")})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit, match="0"):
        main(["doctor"])
    shown = capsys.readouterr().out
    assert "OMP_NUM_THREADS=1" in shown
    assert "missing" in shown
    assert "for encoding on an NVIDIA GPU: pip install 'vaecodec[gpu]'" in shown
    assert shown.endswith("Nothing is broken.\n")


def test_the_product_is_a_model_that_onnx_accepts() -> None:
    onnx.checker.check_model(onnx.load_from_string(doctor._PRODUCT), full_check=True)
