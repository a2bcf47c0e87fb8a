"""The period's plot shows what there is."""

from __future__ import annotations

import matplotlib.image
import pandas as pd
import pytest

from genai_lifecycle.monitoring import plots


def days(*opinions: int, p95_ms: float = 900.0) -> pd.DataFrame:
    """A day for each number of opinions."""
    figures = {"requests": 10, "errors": 1, "p50_ms": p95_ms / 4, "p95_ms": p95_ms}
    rows = [{**figures, "opinions": count, "positive": count // 2} for count in opinions]
    return pd.DataFrame(rows, index=pd.date_range("2026-11-01", periods=len(rows)))


@pytest.mark.parametrize(("opinions", "height"), [((0, 0), 528), ((0, 4), 780)])
def test_feedback_has_a_panel_where_there_is_some(tmp_path, opinions, height):
    plots.daily(days(*opinions), tmp_path / "daily.png")
    pixels = matplotlib.image.imread(tmp_path / "daily.png")
    assert pixels.shape[0] == height and pixels.std() > 0.02  # not an empty sheet


def test_a_period_without_an_answer_is_drawn(tmp_path):
    plots.daily(days(0, p95_ms=float("nan")), tmp_path / "daily.png")
    assert (tmp_path / "daily.png").read_bytes().startswith(b"\x89PNG")
