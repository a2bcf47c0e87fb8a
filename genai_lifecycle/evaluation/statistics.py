"""Intervals and verdicts from paired scores. The routines are SciPy's; the rules for a verdict live here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, in the unit of what was measured."""

    mean: float
    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True)
class Comparison:
    """The leading prompt against one other, paired over the same cases."""

    leader: str
    other: str
    outcome: str  # win | tie
    difference: Interval  # leader minus other, at the confidence of its step in Holm's procedure
    p_value: float  # adjusted by Holm for the number of comparisons


@dataclass(frozen=True)
class Verdict:
    """The leading prompt against each other one, paired over the same cases."""

    outcome: str  # win | tie
    winner: str  # on a tie the one in production before, else the leading one
    runner_up: str
    metric: str
    difference: Interval  # leader minus runner-up
    cases: int = 0
    cases_needed: int | None = None  # on a tie: about this many more would tell; None: no reasonable number would
    comparisons: tuple[Comparison, ...] = ()  # the leader with every other prompt
    incumbent: str | None = None  # the one in production before, where it was compared

    def __str__(self) -> str:
        """For example `win: qa/3 expert beats qa/1 simple by +0.11 [+0.03, +0.19] token_f1`."""
        interval = f"{self.difference.mean:+.3f} [{self.difference.low:+.3f}, {self.difference.high:+.3f}]"
        if self.outcome == "win":
            return f"win: {self.winner} beats {self.runner_up} by {interval} {self.metric}"
        more = f"; about {self.cases_needed} more cases needed" if self.cases_needed else ""
        if self.winner == self.incumbent:
            return f"tie: {self.winner} stays; the leading two differ by {interval} {self.metric}{more}"
        how = "leads, perhaps by chance" if self.difference.mean else f"is no better than {self.runner_up}"
        return f"tie: {self.winner} {how}: {interval} {self.metric}{more}"


# Level of the comparisons: by simulation (docs/evaluation.md) equal prompts then win by chance in no more than 5 %. Of
# few cases, or scores that are mostly alike, an interval is wrong a little more often than it says.
ALPHA = 0.045
POWER = 0.8  # how surely the named number of cases would show a difference as large as the one seen
RESAMPLES = 10_000
_BATCH = 100  # resamples held in memory together
_MOST_CASES = 10_000  # a tie that needs more is one that no case file settles


def mean_interval(values: Sequence[float], seed: int, confidence: float = 0.95) -> Interval:
    """Mean with its bootstrap interval; see `mean_intervals`.

    With fewer than two values, or equal ones, the interval is the mean itself.
    """
    return _interval(values, seed, confidence, mean_intervals)


def _interval(values: Sequence[float], seed: int, confidence: float, ends: Callable[..., tuple[Any, Any]]) -> Interval:
    import numpy as np

    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) < 2 or np.ptp(data) == 0:
        return Interval(mean, mean, mean, confidence)
    lows, highs = ends(data[None], seed, confidence)
    return Interval(mean, float(lows[0]), float(highs[0]), confidence)


def mean_intervals(rows: Any, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES) -> tuple[Any, Any]:
    """Lower and upper ends of the mean's interval for each row (rows, cases).

    Percentile bootstrap (Efron & Tibshirani 1993, chapter 13), its levels widened for few cases as Hesterberg
    (2015, "What Teachers Should Know about the Bootstrap", section 3.3) advises: the plain one covers the
    truth in 93 % where it says 95 %.
    """
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(rows, dtype=float),), np.mean, axis=-1, n_resamples=resamples, method="percentile", batch=_BATCH,
        confidence_level=_widened(confidence, np.shape(rows)[-1]), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return found.low, found.high


def _widened(confidence: float, cases: int) -> float:
    """The level at which a percentile interval of so few cases covers as often as `confidence` says."""
    from scipy.stats import norm, t

    reach = t.isf((1 - confidence) / 2, cases - 1) * (cases / (cases - 1)) ** 0.5
    return float(1 - 2 * norm.sf(reach))


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int, confidence: float) -> Interval:
    """Interval of the mean of `first - second`, case by case; see `difference_intervals`."""
    return _interval(_differences(first, second), seed, confidence, difference_intervals)


def difference_intervals(rows: Any, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES) -> tuple[Any, Any]:
    """The same for differences: of the bootstrap's end and Student's, the one that is farther out.

    Where most of a few cases are answered alike, the bootstrap alone covers the truth less often than it says, and
    Student's alone misses a lopsided one; docs/evaluation.md has the figures.
    """
    import numpy as np
    from scipy.stats import sem, t

    data = np.asarray(rows, dtype=float)
    low, high = mean_intervals(data, seed, confidence, resamples)
    mean, reach = data.mean(axis=-1), t.isf((1 - confidence) / 2, data.shape[-1] - 1) * sem(data, axis=-1)
    return np.minimum(low, mean - reach), np.maximum(high, mean + reach)


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]


# --- verdict --------------------------------------------------------------------------------------


def verdict(scores: Mapping[str, Sequence[float]], *, metric: str, seed: int, incumbent: str | None = None) -> Verdict:
    """The leading prompt against each other one, paired case by case.

    The leader wins when it beats every other prompt at the level that Holm's procedure gives the comparison, so
    that of several equal prompts one wins by chance in at most 5 %. Else it is a tie, and the `incumbent` (the
    prompt in production) stays if it is not clearly worse than the leader.

    Args:
        scores: at least two prompts; every list has one score for each case, in the same order; higher is better.
    """
    ranked = sorted(scores, key=lambda name: -sum(scores[name]))
    leader, cases = ranked[0], len(scores[ranked[0]])
    compared = compare(leader, {name: _differences(scores[leader], scores[name]) for name in ranked[1:]}, seed)
    if all(item.outcome == "win" for item in compared):
        runner_up = next(item for item in compared if item.other == ranked[1])
        return Verdict("win", leader, ranked[1], metric, runner_up.difference, cases, None, compared, incumbent)
    closest = next(item for item in compared if item.outcome == "tie")
    stays = any(item.other == incumbent and item.outcome == "tie" for item in compared)
    needed = more_cases(_differences(scores[leader], scores[closest.other]), closest.difference.confidence)
    winner = incumbent if stays and incumbent is not None else leader
    return Verdict("tie", winner, closest.other, metric, closest.difference, cases, needed, compared, incumbent)


def compare(leader: str, differences: Mapping[str, Sequence[float]], seed: int) -> tuple[Comparison, ...]:
    """One comparison for each other prompt, the surest first, by Holm's step-down procedure.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979):
    step i of m is made at the level ALPHA / (m - i); after the first that fails, none counts as a win.
    """
    p_values = {name: p_value(values, seed) for name, values in differences.items()}
    ordered = sorted(differences, key=lambda name: (p_values[name], -sum(differences[name])))
    found, wins, adjusted = [], True, 0.0
    for step, name in enumerate(ordered):
        left = len(ordered) - step
        interval = _interval(differences[name], seed, 1 - ALPHA / left, difference_intervals)
        wins = wins and interval.low > 0 and len(differences[name]) > 1
        adjusted = min(1.0, max(adjusted, p_values[name] * left))
        found.append(Comparison(leader, name, "win" if wins else "tie", interval, adjusted))
    return tuple(found)


def p_value(differences: Sequence[float], seed: int) -> float:
    """Two-sided p-value of a mean of 0: the level at which the interval would just touch 0."""
    import numpy as np
    from scipy.stats import bootstrap, norm, t, ttest_1samp

    data = np.asarray(differences, dtype=float)
    cases = len(data)
    if cases < 2 or np.ptp(data) == 0:
        return 0.0 if cases > 1 and data[0] else 1.0
    drawn = bootstrap(
        (data,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=_BATCH, rng=np.random.default_rng(seed)
    ).bootstrap_distribution
    beyond = np.count_nonzero(drawn <= 0) if data.mean() > 0 else np.count_nonzero(drawn >= 0)
    share = (beyond + 1) / (len(drawn) + 1)  # never 0 (Davison & Hinkley 1997, section 4.2)
    resampled = 2 * t.sf(norm.isf(share) * ((cases - 1) / cases) ** 0.5, cases - 1)
    return float(min(1.0, max(resampled, ttest_1samp(data, 0).pvalue)))


def more_cases(differences: Sequence[float], confidence: float = 0.95) -> int | None:
    """About how many more cases would show a difference as large as this one in POWER of all trials.

    The usual formula for a paired mean, ((z + z') * sd / mean)^2 (Cohen 1988, chapter 2). None when the mean is 0,
    or so small that over 10,000 cases would be needed.
    """
    import numpy as np
    from scipy.stats import norm

    data = np.asarray(differences, dtype=float)
    mean = abs(float(data.mean()))
    if len(data) < 2 or mean == 0:
        return None
    reach = norm.isf((1 - confidence) / 2) + norm.ppf(POWER)
    wanted = (reach * float(data.std(ddof=1)) / mean) ** 2
    return _rounded(max(1.0, wanted - len(data))) if wanted <= _MOST_CASES else None


def _rounded(count: float) -> int:
    """Two digits are more than such an estimate is good for."""
    step = 1 if count < 20 else 10 if count < 1000 else 100
    return int(-(-count // step) * step)
