"""PNG plots of an experiment and of an evaluation. matplotlib is imported when the first plot is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genai_lifecycle.evaluation.results import TemplateScore
from genai_lifecycle.evaluation.statistics import Verdict

_SIZE_INCHES, _DPI, _COLOUR = (7, 3.2), 120, "#3b6ea5"


def quality(scores: Sequence[TemplateScore], cases: int, path: Path) -> None:
    """Mean token F1 of each prompt with its 95 % interval."""
    figure, axes = _figure(f"Token F1 against the reference, {cases} cases, 95 % interval")
    names = [str(score.prompt) for score in scores]
    means = [score.token_f1.mean for score in scores]
    below = [score.token_f1.mean - score.token_f1.low for score in scores]
    above = [score.token_f1.high - score.token_f1.mean for score in scores]
    axes.errorbar(means, names, xerr=[below, above], fmt="o", capsize=4, color=_COLOUR)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("token F1 (0 to 1, higher is better)")
    axes.invert_yaxis()
    figure.savefig(path)


def speed(scores: Sequence[TemplateScore], path: Path) -> None:
    """Tokens per second of each prompt in batched generation."""
    figure, axes = _figure("Speed of batched generation")
    axes.barh(
        [str(score.prompt) for score in scores],
        [s.metrics["tokens_per_second"] for s in scores],
        color=_COLOUR,
    )
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
