"""Test option sets: a command takes them whole, and a person types their options one by one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from vaecodec_cli.options import flat


@dataclass(frozen=True, kw_only=True)
class Inner:
    low: Annotated[int, typer.Option(help="The lowest.")] = 1
    high: Annotated[int | None, typer.Option("--top", help="The highest.")] = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    panel: ClassVar[str] = "Bounds"

    name: Annotated[str, typer.Argument(help="A name.")]
    inner: Inner
    unit: Annotated[str, typer.Option(help="Of both.")]


CALLS: list[tuple[Any, ...]] = []


def command(outer: Outer, loud: Annotated[bool, typer.Option("--loud", help="Shout.")] = False) -> None:
    """Do it.

    The text of a paragraph is
    one line.
    """
    CALLS.append((outer, loud))


def typed(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(flat(command))
    CALLS.clear()
    return CliRunner().invoke(app, arguments)


def test_a_command_gets_its_option_sets_from_single_options() -> None:
    assert typed("docs", "--unit", "cm", "--top", "7", "--loud").exit_code == 0
    assert [(Outer(name="docs", inner=Inner(low=1, high=7), unit="cm"), True)] == CALLS


def test_an_option_of_a_set_without_a_default_is_required() -> None:
    refused = typed("docs")
    assert refused.exit_code == 2
    assert "--unit" in refused.output
    assert CALLS == []


def test_the_lines_of_a_paragraph_are_joined() -> None:
    assert flat(command).__doc__ == "Do it.\n\nThe text of a paragraph is one line."


def test_options_keep_the_order_of_their_sets() -> None:
    assert list(inspect.signature(flat(command)).parameters) == ["name", "low", "high", "unit", "loud"]


def test_the_options_of_a_set_have_a_help_panel_of_their_own() -> None:
    hints = flat(command).__annotations__
    panels = {name: hints[name].__metadata__[0].rich_help_panel for name in ("low", "high", "unit", "loud")}
    assert panels == {"low": "Bounds", "high": "Bounds", "unit": "Bounds", "loud": None}
    # A set that is shared with other commands has no panel there.
    (alone,) = get_type_hints(Inner, include_extras=True)["low"].__metadata__
    assert alone.rich_help_panel is None


def test_two_options_of_one_name_are_refused() -> None:
    def twice(inner: Inner, low: Annotated[int, typer.Option(help="Another.")] = 0) -> None:
        """Do it."""

    with pytest.raises(ValueError, match="duplicate parameter name: 'low'"):
        flat(twice)
