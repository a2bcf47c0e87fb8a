"""Is what people get now still what was evaluated? Two-sample tests over all measures at once; pure functions.

The tests are SciPy's. They take requests as independent of each other: a question that is asked a hundred times a day
counts a hundred times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from genai_lifecycle.evaluation.statistics import holm
from genai_lifecycle.monitoring.rules import DriftRules

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NUMBERS, WORDS = ("prompt_tokens", "answer_tokens", "repetition"), ("declined_share", "finish_reason")
KS, CHI_SQUARE = "Kolmogorov-Smirnov", "chi-square"
_LEAST_EXPECTED = 5  # below it the chi-square distribution is not to be trusted (Cochran 1954)
_RESAMPLES = 9999


@dataclass(frozen=True)
class Sample:
    """One measure, now and in the baseline: numbers, whose distributions are compared, or words, whose shares are."""

    group: str  # prompt and model version
    measure: str
    now: Series
    before: Series

    @property
    def is_category(self) -> bool:
        return self.measure in WORDS


@dataclass(frozen=True)
class DriftResult:
    """One measure of one prompt and model version: the period beside the baseline."""

    group: str
    measure: str
    test: str  # KS | CHI_SQUARE
    count_now: int
    count_before: int
    now: str  # in a few words
    before: str
    effect: float = 0.0  # D, or Cramer's V: 0 (the same) to 1
    p_value: float = 1.0  # adjusted by Holm over all tests of the report
    outcome: str = "too few"  # drift | none | too few

    def __str__(self) -> str:
        """For example `answer_tokens of qa/3 has drifted: median 12, in the baseline median 30 (...)`."""
        return (
            f"{self.measure} of {self.group} has drifted: {self.now}, in the baseline {self.before} "
            f"({self.test}, {'D' if self.test == KS else 'V'} {self.effect:.2f}, p {self.p_value:.2g})"
        )


def samples(group: str, now: DataFrame, before: DataFrame) -> list[Sample]:
    """What is compared with the baseline. The latency is not: an evaluation answers in batches."""
    sides = [table.assign(declined_share=table["declined"].map({0.0: "answered", 1.0: "declined"}))
             for table in (now, before)]  # fmt: skip
    every = [Sample(group, name, *(side[name].dropna() for side in sides)) for name in (*NUMBERS, *WORDS)]
    return [item for item in every if len(item.now) and len(item.before)]


def compare(samples: Sequence[Sample], minimum_count: int, rules: DriftRules, seed: int = 0) -> list[DriftResult]:
    """Test every sample; p-values are adjusted by Holm over all tests that were made.

    Args:
        minimum_count: with fewer values on either side nothing is tested, and the outcome is "too few".

    Returns:
        One result for each sample, in their order.
    """
    results = [_test(sample, minimum_count, seed) for sample in samples]
    tested = [item for item in results if item.outcome != "too few"]
    adjusted = iter(holm([item.p_value for item in tested]))
    return [item if item.outcome == "too few" else _with_outcome(item, next(adjusted), rules) for item in results]


def _with_outcome(item: DriftResult, p_value: float, rules: DriftRules) -> DriftResult:
    is_drift = p_value < rules.alpha and item.effect >= rules.least_effect
    return replace(item, p_value=p_value, outcome="drift" if is_drift else "none")


def _test(sample: Sample, minimum_count: int, seed: int) -> DriftResult:
    now, before = sample.now, sample.before
    result = DriftResult(sample.group, sample.measure, CHI_SQUARE if sample.is_category else KS, len(now), len(before),
                         *_descriptions(sample))  # fmt: skip
    if min(len(now), len(before)) < minimum_count:
        return result
    effect, p_value = chi_square(now, before, seed) if sample.is_category else ks(now, before)
    return replace(result, effect=effect, p_value=p_value, outcome="none")


def _descriptions(sample: Sample) -> list[str]:
    """Both sides in a few words: the median, or the shares."""
    sides = (sample.now, sample.before)
    if not sample.is_category:
        return [f"median {side.median():.4g}" for side in sides]
    names = sorted({*sample.now, *sample.before})
    return [", ".join(f"{name} {(side == name).mean():.0%}" for name in names) for side in sides]


def ks(now: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """(D, p) of the two-sample Kolmogorov-Smirnov test; D is the largest distance of the two distributions, 0 to 1.

    With ties, as counts of tokens have, p is too large rather than too small (Noether 1963).
    """
    from scipy.stats import ks_2samp

    result = ks_2samp(now, before)
    return float(result.statistic), float(result.pvalue)


def chi_square(now: Sequence[str], before: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """(Cramer's V, p) of the chi-square test of homogeneity; V is 0 (the same shares) to 1.

    Where a cell is expected to have fewer than five, p comes from random tables with the same margins instead.
    """
    import numpy as np
    from scipy.stats import MonteCarloMethod, chi2_contingency
    from scipy.stats.contingency import association, crosstab

    table = crosstab(["now"] * len(now) + ["before"] * len(before), [*now, *before]).count
    if table.shape[1] < 2:
        return 0.0, 1.0
    result = chi2_contingency(table)
    if result.expected_freq.min() < _LEAST_EXPECTED:
        random_tables = MonteCarloMethod(n_resamples=_RESAMPLES, rng=np.random.default_rng(seed))
        result = chi2_contingency(table, correction=False, method=random_tables)
    return float(association(table, method="cramer")), float(result.pvalue)
