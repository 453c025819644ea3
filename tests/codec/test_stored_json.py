"""Test that JSON of any depth and size is refused by a plain error, and that a record's checksum shows changes."""

from __future__ import annotations

import json
import random

import pytest

from vaecodec.files.stored_json import parse_json, parse_object, parse_with_checksum, with_checksum

RECORD = {"name": "é", "rows": [1, 2.5, None, True], "inner": {"b": 1e-300, "a": -0.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("9" * 10_000, "limit"),
        ("[NaN]", "NaN is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ("[-1e999]", "-1e999 is too large a number"),
        (b"\xff\xfe\x00", "decode"),
        ("", "Expecting value"),
    ],
)
def test_what_is_no_json_is_a_value_error(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_an_object_is_expected_where_one_is_asked_for() -> None:
    assert parse_object(b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        parse_object("[1]")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_record_comes_back_and_says_what_it_is(indent: int | None) -> None:
    text = with_checksum(RECORD, indent=indent)
    assert parse_with_checksum(text) == RECORD
    assert json.loads(text)["inner"] == RECORD["inner"]
    assert (b"\n" in text) == (indent is not None)


def test_no_changed_record_is_read_as_another() -> None:
    whole = with_checksum(RECORD)
    chosen = random.Random(0)
    read = 0
    for _ in range(2_000):
        changed = bytearray(whole)
        changed[chosen.randrange(len(whole))] = chosen.randrange(256)
        try:
            assert parse_with_checksum(bytes(changed)) == RECORD
            read += 1
        except ValueError:
            pass
    assert read < 40  # only where a byte was replaced by itself, or a blank by another one


def test_a_record_without_its_checksum_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit its checksum"):
        parse_with_checksum(json.dumps(RECORD))
