"""Show text from files, names and servers as text: nothing in it controls the terminal."""

from __future__ import annotations

import unicodedata

# Characters that change the direction of text, with which one name can be made to look like another.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """Write control characters, and bytes of names that are not UTF-8, with backslashes; keep tabs and line ends."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def one_line(text: str) -> str:
    """Show a text as :func:`visible` does, on one line."""
    return visible(" ".join(line.strip() for line in text.splitlines() if line.strip()))


def _shown(character: str) -> str:
    if character in "\t\n":
        return character
    if character in _TURNING or unicodedata.category(character) in ("Cc", "Cs"):
        return character.encode("unicode_escape").decode()
    return character
