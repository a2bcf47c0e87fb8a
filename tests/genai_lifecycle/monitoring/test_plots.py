"""The period's plot shows what there is."""

from __future__ import annotations

from datetime import date

import matplotlib.image
import pytest

from genai_lifecycle.monitoring import plots
from genai_lifecycle.monitoring.measures import Day


def day(number: int, opinions: int = 0, p95_ms: float | None = 900.0) -> Day:
    return Day(date(2026, 11, number), 10, 1, 200.0 if p95_ms else None, p95_ms, opinions, opinions // 2)


@pytest.mark.parametrize(("days", "panels"), [([day(1), day(2)], 2), ([day(1), day(2, opinions=4)], 3)])
def test_feedback_has_a_panel_where_there_is_some(tmp_path, days, panels):
    plots.daily(days, tmp_path / "daily.png")
    pixels = matplotlib.image.imread(tmp_path / "daily.png")
    assert pixels.shape[0] == {2: 528, 3: 780}[panels] and pixels.std() > 0.02  # not an empty sheet


def test_a_period_without_an_answer_is_drawn(tmp_path):
    plots.daily([day(1, p95_ms=None)], tmp_path / "daily.png")
    assert (tmp_path / "daily.png").read_bytes().startswith(b"\x89PNG")
