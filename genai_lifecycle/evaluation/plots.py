"""PNG plots of an experiment and of an evaluation. matplotlib is imported when the first plot is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genai_lifecycle.evaluation.results import PromptResult
from genai_lifecycle.evaluation.statistics import Verdict

_SIZE_INCHES, _DPI, _COLOUR = (7, 3.2), 120, "#3b6ea5"


def quality(results: Sequence[PromptResult], metric: str, cases: int, path: Path) -> None:
    """Mean score of each prompt with its 95 % interval."""
    figure, axes = _figure(f"{metric} against the reference, {cases} cases, 95 % interval")
    scores = [item.scores[metric] for item in results]
    means = [score.mean for score in scores]
    below = [score.mean - score.low for score in scores]
    above = [score.high - score.mean for score in scores]
    axes.errorbar(means, [item.label for item in results], xerr=[below, above], fmt="o", capsize=4, color=_COLOUR)
    axes.set_xlim(min(-0.02, *means), max(1.02, *means))
    axes.set_xlabel(f"{metric} (higher is better)")
    axes.invert_yaxis()
    figure.savefig(path)


def speed(results: Sequence[PromptResult], path: Path) -> None:
    """Tokens per second of each prompt in batched generation; 0 where answers of an earlier run were used again."""
    figure, axes = _figure("Speed of batched generation")
    speeds = [item.metrics.get("tokens_per_second", 0.0) for item in results]
    axes.barh([item.label for item in results], speeds, color=_COLOUR)
    axes.set_xlabel("tokens per second (higher is better)")
    axes.invert_yaxis()
    figure.savefig(path)


def differences(verdict: Verdict, path: Path) -> None:
    """How far the leader is ahead of each other prompt, with the interval of the comparison."""
    figure, axes = _figure(f"{verdict.comparisons[0].leader} minus each other prompt, {verdict.cases} cases, paired")
    names = [item.other for item in verdict.comparisons]
    means = [item.difference.mean for item in verdict.comparisons]
    below = [item.difference.mean - item.difference.low for item in verdict.comparisons]
    above = [item.difference.high - item.difference.mean for item in verdict.comparisons]
    axes.errorbar(means, names, xerr=[below, above], fmt="o", capsize=4, color=_COLOUR)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_xlabel(f"difference of {verdict.metric} (right of 0: the leader is better)")
    axes.margins(y=0.3)
    axes.invert_yaxis()
    figure.savefig(path)


def _figure(title: str):
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: no global state, and safe outside the main thread.
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes
