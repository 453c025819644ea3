"""Fuzz guided by coverage: ``python tests/fuzz/run_atheris.py SECONDS [TARGET ...]``, by default all in turn.

The targets share the seconds. It ends with an error at the first exception that is not ours; the bytes that raised it
are then in ``crash-*`` in the current folder.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vaecodec", "vaecodec_integrations", "vaecodec_training"]):
    from fuzz_targets import targets


def main() -> None:
    seconds, *names = sys.argv[1:]
    names = names or list(targets())
    share = max(1, round(float(seconds) / len(names)))
    for name in names:
        with tempfile.TemporaryFile() as said:
            # libFuzzer never returns. A fork has all modules; to import them takes longer than to fuzz.
            child = os.fork()
            if not child:
                os.dup2(said.fileno(), sys.stderr.fileno())
                fuzz(name, share)
            _, status = os.waitpid(child, 0)
            said.seek(0)
            text = said.read().decode(errors="replace")
        if status:
            sys.exit(f"{text}\n{name}: failed")
        # On a busy machine the time may be over before libFuzzer counts anything.
        runs, covered = (re.findall(r"#(\d+)\s+DONE\s+cov: (\d+)", text) or [(0, 0)])[-1]
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
