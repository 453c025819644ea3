"""Test how the time of a fit is divided."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vaecodec_training.budget import Budget, Pace, Stopwatch, probe_epochs
from vaecodec_training.observe import Progress


def test_short_runs_on_many_rows_are_parts_of_an_epoch() -> None:
    pace = Pace(epoch_seconds=30.0, run_seconds=5.0)  # half a million rows
    budget = Budget(seconds=600.0, recipe_epochs=10.0, steps_per_epoch=480, pace=pace, runs=9)
    assert budget.floor == 305
    assert budget.short(pace) == 0.6
    assert budget.has_trials
    assert replace(budget, seconds=440.0).short(pace) == pytest.approx(100 / 480, abs=0.01)
    # Ten runs with what each takes besides, and twelve times a short length.
    assert budget.least == pytest.approx(10 * 5 + 12 * 0.21 * 30)


def test_where_the_budget_is_large_its_shares_decide() -> None:
    pace = Pace(epoch_seconds=1.0, run_seconds=2.0)
    budget = Budget(seconds=600.0, recipe_epochs=10.0, steps_per_epoch=31, pace=pace, runs=9)
    assert budget.short(pace) == 28
    assert budget.final(pace) == 60  # never more
    assert budget.room(pace, spent=360.0) == 600 - 360 - budget.floor - 2
    both = Budget(600.0, 10.0, 31, pace, 9, other_runs=5)
    assert both.short(pace) == 16
    assert both.other(pace) == 60


def test_a_budget_below_the_recipe_and_all_trials_has_no_trials() -> None:
    pace = Pace(epoch_seconds=1.0, run_seconds=1.0)
    for seconds, expected in ((32.0, False), (33.0, True)):
        budget = Budget(seconds, recipe_epochs=10.0, steps_per_epoch=50, pace=pace, runs=9)
        assert budget.has_trials is expected
    assert budget.short(pace) == 1


@pytest.mark.parametrize(("steps", "expected"), [(2, 2.0), (31, 0.5), (480, 50 / 480)])
def test_the_pace_is_measured_on_half_an_epoch_or_some_steps(steps: float, expected: float) -> None:
    assert probe_epochs(steps) == pytest.approx(expected)


def test_a_watch_tells_steps_from_what_a_run_takes_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(0.0, 0.0), *((20.0 + step, 2.0 + 0.1 * step) for step in range(5)), (90.0, 7.0)])
    monkeypatch.setattr("vaecodec_training.budget.clock", lambda: next(times))
    watch = Stopwatch(steps_per_epoch=10)
    for step in range(5):
        watch(Progress(step, 5, 0.0, {}, 0.0, 0.0, None, 0.0))
    # The processor's time counts where a busy machine took longer.
    assert watch.pace() == pytest.approx((1.0, 6.5))
