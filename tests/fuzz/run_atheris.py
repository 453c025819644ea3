"""Fuzz guided by coverage: ``python tests/fuzz/run_atheris.py SECONDS [TARGET ...]``, by default all in turn.

The targets share the seconds. It ends with an error at the first exception that is not ours; the bytes that raised it
are then in ``crash-*`` in the current folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vaecodec", "vaecodec_integrations.qdrant.migration.state"]):
    from fuzz_targets import targets

# Tells the process of one target from the one that starts them all: libFuzzer never returns.
_CHILD = "VAECODEC_FUZZ_TARGET"


def main() -> None:
    seconds, *names = sys.argv[1:]
    if _CHILD in os.environ:
        fuzz(os.environ[_CHILD], int(seconds))
    names = names or list(targets())
    share = max(1, round(float(seconds) / len(names)))
    for name in names:
        command = [sys.executable, __file__, str(share)]
        done = subprocess.run(command, env=os.environ | {_CHILD: name}, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{done.stderr}\n{name}: failed")
        # On a busy machine the time may be over before libFuzzer counts anything.
        runs, covered = (re.findall(r"#(\d+)\s+DONE\s+cov: (\d+)", done.stderr) or [(0, 0)])[-1]
        print(f"{name}: {int(runs):,} inputs, {covered} edges covered", flush=True)


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    target = targets()[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
            target.read(seed)  # what is compiled at first use is not to take the seconds of the inputs
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=65536", corpus], target.read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
