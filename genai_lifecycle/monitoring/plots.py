"""PNG plots of a period. matplotlib is imported when the first plot is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genai_lifecycle.monitoring.drift import Sample

if TYPE_CHECKING:
    from pandas import DataFrame

_DPI, _NOW, _BEFORE, _BAD = 120, "#3b6ea5", "#999999", "#b5443c"
_MOST_NAMES = 10  # of days below a plot
_MOST_PANELS = 9  # of the drift's plot; more are not readable


def daily(days: DataFrame, path: Path) -> None:
    """Volume, errors, latency and, where there is any, feedback, day by day (`measures.by_day`)."""
    has_feedback = bool(days["opinions"].any())
    figure, (volume, latency, *feedback) = _panels(2 + has_feedback, (7, 4.4 + 2.1 * has_feedback))
    places = range(len(days))
    volume.bar(places, days["requests"], color=_NOW, label="requests")
    volume.bar(places, days["errors"], color=_BAD, label="errors")
    volume.set_ylabel("requests")
    latency.plot(places, days["p50_ms"], "o-", color=_NOW, label="p50")
    latency.plot(places, days["p95_ms"], "s--", color=_NOW, label="p95")
    latency.set_ylabel("latency in ms")
    latency.set_ylim(0, 1.1 * days["p95_ms"].fillna(0).max() or 1)
    for axes in feedback:
        axes.plot(places, days["positive"] / days["opinions"], "o-", color=_NOW, label="positive")
        axes.set_ylim(-0.05, 1.05)
        axes.set_ylabel("share of feedback")
    for axes in (volume, latency, *feedback):
        _name_days(axes, days)
    figure.savefig(path)


def _name_days(axes, days: DataFrame) -> None:
    shown = range(0, len(days), -(-len(days) // _MOST_NAMES))
    axes.set_xlim(-0.6, len(days) - 0.4)
    axes.set_xticks(shown, days.index[list(shown)].strftime("%d %b"), fontsize=8)
    axes.legend(fontsize=8, loc="lower left", framealpha=0.6)


def distributions(samples: Sequence[Sample], path: Path) -> None:
    """Cumulative distribution of each measure, now and in the baseline; D is the largest vertical distance."""
    shown = samples[:_MOST_PANELS]
    figure, panels = _panels(len(shown), (7, 1 + 2.2 * len(shown)))
    for axes, sample in zip(panels, shown, strict=True):
        axes.ecdf(sample.before, color=_BEFORE, label=f"baseline ({len(sample.before)})")
        axes.ecdf(sample.now, color=_NOW, label=f"now ({len(sample.now)})")
        axes.set_title(f"{sample.measure} of {sample.group}", fontsize=9)
        axes.set_ylabel("share up to")
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path)


def _panels(rows: int, size_inches: tuple[float, float]):
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: no global state, and safe outside the main thread.
    figure = Figure(figsize=size_inches, dpi=_DPI, layout="constrained")
    panels = figure.subplots(rows, squeeze=False).ravel()
    for axes in panels:
        axes.grid(axis="y", alpha=0.3)
    return figure, panels
