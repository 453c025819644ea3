"""Test the provenance of files: one form of dates and versions for all."""

from __future__ import annotations

import platform
from datetime import date, timedelta
from importlib.metadata import version

from vaecodec import provenance


def test_dates_and_versions_are_those_of_this_installation() -> None:
    made = provenance.made_now()
    assert set(made) == {"created", "versions"}
    assert abs(date.fromisoformat(made["created"]) - date.today()) <= timedelta(days=1)
    assert made["versions"]["python"] == platform.python_version()
    assert made["versions"]["numpy"] == version("numpy")


def test_libraries_that_are_not_installed_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr(provenance, "LIBRARIES", ("numpy", "no-such-distribution"))
    assert set(provenance.versions()) == {"python", "numpy"}
