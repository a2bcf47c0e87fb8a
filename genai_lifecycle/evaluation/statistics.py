"""Intervals and verdicts from paired scores. The routines are SciPy's; the rules for a verdict live here."""

from __future__ import annotations

from collections.abc import Sequence

from genai_lifecycle.results import Interval, Verdict

RESAMPLES = 2000


def mean_interval(values: Sequence[float], seed: int, confidence: float = 0.95) -> Interval:
    """Mean with its percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    With fewer than two values, or equal ones, the interval is the mean itself.
    """
    import numpy as np
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) < 2 or np.ptp(data) == 0:
        return Interval(mean, mean, mean, confidence)
    found = bootstrap(
        (data,), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(mean, float(found.low), float(found.high), confidence)


def verdict(scores: dict[str, Sequence[float]], *, metric: str, seed: int, incumbent: str | None = None) -> Verdict:
    """The leading prompt against each other one, paired case by case.

    The interval is that of the comparison with the runner-up. Its confidence is raised for the number of
    comparisons the leader must win (Bonferroni), so that of several equal prompts one wins by chance in at
    most 5 %. The leader wins when the interval lies above 0; else it is a tie, and the `incumbent` (the
    prompt in production) stays if it is not clearly worse than the leader.

    Args:
        scores: at least two prompts; every list has one score for each case, in the same order.
    """
    ranked = sorted(scores, key=lambda name: -sum(scores[name]))
    leader, runner_up = ranked[:2]
    confidence = 1 - 0.05 / (len(ranked) - 1)
    differences = {name: paired_difference(scores[leader], scores[name], seed, confidence) for name in ranked[1:]}
    difference = differences[runner_up]
    if difference.low > 0:
        return Verdict("win", leader, runner_up, metric, difference)
    stays = incumbent in differences and differences[incumbent].low <= 0
    return Verdict("tie", incumbent if stays else leader, runner_up, metric, difference)


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int, confidence: float) -> Interval:
    """Interval of the mean of `first - second`, case by case."""
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], seed, confidence)
