"""Plots are real images and show what they are given."""

from __future__ import annotations

import matplotlib.image
import pytest

from genai_lifecycle.evaluation import plots
from genai_lifecycle.evaluation.results import PromptResult
from genai_lifecycle.evaluation.statistics import Interval
from genai_lifecycle.store.prompt_registry import PromptRef


def results(*values: float) -> list[PromptResult]:
    return [
        PromptResult(
            f"prompt/{i}", PromptRef("prompt", i, ""), "", "run", "experiment", {"tokens_per_second": 100 * value},
            {"token_f1": Interval(value, max(0.0, value - 0.2), min(1.0, value + 0.2))},
        )
        for i, value in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize("values", [(0.2, 0.8), (0.0, 1.0), (0.5,)])
def test_both_plots_draw(tmp_path, values):
    plots.quality(results(*values), "token_f1", 10, tmp_path / "quality.png")
    plots.speed(results(*values), tmp_path / "speed.png")
    for name in ("quality.png", "speed.png"):
        pixels = matplotlib.image.imread(tmp_path / name)
        assert pixels.shape == (384, 840, 4)
        assert pixels.std() > 0.02  # not an empty sheet


def test_other_scores_give_another_picture(tmp_path):
    plots.quality(results(0.2, 0.8), "token_f1", 10, tmp_path / "a.png")
    plots.quality(results(0.2, 0.3), "token_f1", 10, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
