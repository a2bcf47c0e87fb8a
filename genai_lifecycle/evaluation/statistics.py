"""Intervals of scores and the verdict on paired ones. The tests are SciPy's; the rules of a verdict live here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval, in the unit of what was measured."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The leading prompt against one other, paired over the same cases."""

    leader: str
    other: str
    outcome: str  # win | tie
    difference: Interval  # leader minus other
    p_value: float  # adjusted by Holm for the number of comparisons; it decides the outcome


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


CONFIDENCE = 0.95  # of every interval
ALPHA = 0.045  # level of a verdict's comparisons: one of equal prompts wins in at most 5 %, also in simulations
POWER = 0.8  # how surely the named number of cases would show a difference as large as the one seen
RESAMPLES = 4999
_BATCH = 500  # resamples held in memory together
_MOST_CASES = 10_000  # a tie that needs more is one that no case file settles


def mean_interval(scores: Sequence[float], seed: int) -> Interval:
    """Mean of one prompt's scores, by SciPy's bootstrap (BCa: lopsided scores, and no end outside their range).

    With fewer than two scores, or equal ones, the interval is the mean itself.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if _is_constant(scores):
        return _constant(scores)
    ends = bootstrap(
        (np.asarray(scores, dtype=float),), np.mean, method="BCa", n_resamples=RESAMPLES, batch=_BATCH,
        confidence_level=CONFIDENCE, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(float(np.mean(scores)), float(ends.low), float(ends.high))


def difference_interval(differences: Sequence[float]) -> Interval:
    """Mean of paired differences, by Student's distribution, which holds for few cases where a bootstrap does not.

    docs/evaluation.md has the figures of both.
    """
    from scipy.stats import ttest_1samp

    if _is_constant(differences):
        return _constant(differences)
    ends = ttest_1samp(differences, 0).confidence_interval(CONFIDENCE)
    return Interval(sum(differences) / len(differences), float(ends.low), float(ends.high))


def _is_constant(values: Sequence[float]) -> bool:
    return len(values) < 2 or min(values) == max(values)


def _constant(values: Sequence[float]) -> Interval:
    return Interval(*[float(values[0])] * 3)


def paired_differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """`first - second`, case by case."""
    return [a - b for a, b in zip(first, second, strict=True)]


# --- verdict --------------------------------------------------------------------------------------


def verdict(scores: Mapping[str, Sequence[float]], *, metric: str, seed: int, incumbent: str | None = None) -> Verdict:
    """The leading prompt against each other one, paired case by case.

    The leader wins when it beats every other prompt, so that of several equal prompts one wins by chance in at
    most 5 %. Else it is a tie, and the `incumbent` (the prompt in production) stays if it is not clearly worse than
    the leader.

    Args:
        scores: at least two prompts; every list has one score for each case, in the same order; higher is better.
    """
    ranked = sorted(scores, key=lambda name: -sum(scores[name]))
    leader, cases = ranked[0], len(scores[ranked[0]])
    differences = {name: paired_differences(scores[leader], scores[name]) for name in ranked[1:]}
    comparisons = compare(leader, differences, seed)
    if all(item.outcome == "win" for item in comparisons):
        runner_up = next(item for item in comparisons if item.other == ranked[1])
        return Verdict("win", leader, ranked[1], metric, runner_up.difference, cases, None, comparisons, incumbent)
    ties = {item.other: item for item in comparisons if item.outcome == "tie"}
    closest = next(iter(ties.values()))
    winner = incumbent if incumbent in ties else leader
    needed = more_cases(differences[closest.other])
    return Verdict("tie", winner, closest.other, metric, closest.difference, cases, needed, comparisons, incumbent)


def compare(leader: str, differences: Mapping[str, Sequence[float]], seed: int) -> tuple[Comparison, ...]:
    """One comparison for each other prompt, the surest first."""
    adjusted = holm(p_values(list(differences.values()), seed))
    comparisons = [
        Comparison(leader, name, "win" if p_value <= ALPHA else "tie", difference_interval(values), p_value)
        for (name, values), p_value in zip(differences.items(), adjusted, strict=True)
    ]
    return tuple(sorted(comparisons, key=lambda item: (item.p_value, -item.difference.mean)))


def p_values(rows: Sequence[Sequence[float]], seed: int, resamples: int = RESAMPLES) -> Sequence[float]:
    """Two-sided p-value of a mean of 0 for each row (rows, cases): an exact test that turns signs at random."""
    import numpy as np
    from scipy.stats import permutation_test

    data = np.asarray(rows, dtype=float)
    if data.shape[-1] < 2:
        return [1.0] * len(data)
    found = permutation_test(
        (data,), np.mean, permutation_type="samples", vectorized=True, axis=-1, n_resamples=resamples, batch=_BATCH,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return [float(value) for value in found.pvalue]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given; SciPy has no such routine.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, float(p_values[index]) * (len(p_values) - step)))
        adjusted[index] = largest
    return adjusted


def more_cases(differences: Sequence[float]) -> int | None:
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
    reach = norm.isf((1 - CONFIDENCE) / 2) + norm.ppf(POWER)
    needed = (reach * float(data.std(ddof=1)) / mean) ** 2
    return _rounded(max(1.0, needed - len(data))) if needed <= _MOST_CASES else None


def _rounded(count: float) -> int:
    """Two digits are more than such an estimate is good for."""
    step = 1 if count < 20 else 10 if count < 1000 else 100
    return int(-(-count // step) * step)
