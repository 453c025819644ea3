"""Run by `make wheel` in an environment that holds nothing but the built wheel and its dependencies."""

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import numpy as np

import vaecodec

golden = Path(__file__).parent.parent / "tests" / "codec" / "golden"

assert "site-packages" in str(vaecodec.__file__), vaecodec.__file__
codec = vaecodec.Codec.load(golden / "linear4.onnx")
values = np.load(golden / "linear4.npz", allow_pickle=False)
assert np.allclose(codec.encode(values["embedding"]), values["latent"], atol=1e-6)
assert np.allclose(codec.decode(values["latent"]), values["reconstruction"], atol=1e-6)

for package in ("vaecodec", "vaecodec_training", "vaecodec_exporters", "vaecodec_integrations", "vaecodec_cli"):
    found = importlib.util.find_spec(package)
    assert found is not None, package
    assert (Path(str(found.origin)).parent / "py.typed").exists(), package
for heavy in ("torch", "onnx", "typer", "hnswlib", "qdrant_client"):
    assert importlib.util.find_spec(heavy) is None, heavy

described = metadata("vaecodec").get_payload()
links = re.findall(r"\]\((.*?)\)", str(described))
assert len(links) > 20, described
assert all(link.startswith("https://") for link in links), links

script = Path(sys.executable).parent / "vaecodec"
answer = subprocess.run([script, "info", golden / "linear4.onnx"], capture_output=True, text=True)
assert answer.returncode == 1
assert "pip install 'vaecodec[cli]'" in answer.stderr, answer.stderr
print("the wheel works in an empty environment")
