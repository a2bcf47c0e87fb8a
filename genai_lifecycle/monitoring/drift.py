"""Is what people get now still what was evaluated? Two-sample tests over all measures at once; pure functions.

The tests are SciPy's. They take requests as independent of each other: a question that is asked a hundred times a day
counts a hundred times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genai_lifecycle.monitoring.rules import DriftRules


@dataclass(frozen=True)
class DriftFinding:
    """One measure of one prompt and model version: the period beside the baseline."""

    group: str
    measure: str
    test: str  # Kolmogorov-Smirnov | chi-square
    count_now: int
    count_before: int
    now: str  # in a few words
    before: str
    effect: float = 0.0  # D, or Cramer's V: 0 (the same) to 1
    p_value: float = 1.0  # adjusted by Holm over all tests of the report
    outcome: str = "too few"  # drift | none | too few


KS, CHI_SQUARE = "Kolmogorov-Smirnov", "chi-square"
_LEAST_EXPECTED = 5  # below it the chi-square distribution is not to be trusted (Cochran 1954)
_RESAMPLES = 9999
_EXACT_BELOW = 10_000  # product of the two counts; above, the asymptotic distribution is as good and much faster


@dataclass(frozen=True)
class Sample:
    """One measure, now and in the baseline: numbers, whose distributions are compared, or words, whose shares are."""

    group: str  # prompt and model version
    measure: str
    now: Sequence[float] | Sequence[str]
    before: Sequence[float] | Sequence[str]
    is_category: bool = False


def find_drift(samples: Sequence[Sample], minimum_count: int, rules: DriftRules, seed: int = 0) -> list[DriftFinding]:
    """Test every sample; p-values are adjusted by Holm over all tests that were made.

    Args:
        minimum_count: with fewer values on either side nothing is tested, and the finding says "too few".

    Returns:
        One finding for each sample, in their order.
    """
    found = [_tested(sample, minimum_count, seed) for sample in samples]
    made = [index for index, item in enumerate(found) if item.outcome != "too few"]
    adjusted = dict(zip(made, holm([found[index].p_value for index in made]), strict=True))
    return [_judged(item, adjusted[i], rules) if i in adjusted else item for i, item in enumerate(found)]


def _judged(item: DriftFinding, p_value: float, rules: DriftRules) -> DriftFinding:
    is_drift = p_value < rules.alpha and item.effect >= rules.least_effect
    return replace(item, p_value=p_value, outcome="drift" if is_drift else "none")


def _tested(sample: Sample, minimum_count: int, seed: int) -> DriftFinding:
    test = CHI_SQUARE if sample.is_category else KS
    told = DriftFinding(sample.group, sample.measure, test, len(sample.now), len(sample.before), *_described(sample))
    if min(len(sample.now), len(sample.before)) < minimum_count:
        return replace(told, outcome="too few")
    effect, p_value = (
        chi_square(sample.now, sample.before, seed) if sample.is_category else ks(sample.now, sample.before)
    )
    return replace(told, effect=effect, p_value=p_value, outcome="none")


def _described(sample: Sample) -> tuple[str, str]:
    """Both sides in a few words: the median, or the shares."""
    import numpy as np

    if not sample.is_category:
        sides = [f"median {np.median(side):.4g}" if len(side) else "nothing" for side in (sample.now, sample.before)]
        return sides[0], sides[1]
    both = [Counter(side) for side in (sample.now, sample.before)]
    names = sorted(set(both[0]) | set(both[1]))
    texts = [", ".join(f"{name} {side[name] / max(1, side.total()):.0%}" for name in names) for side in both]
    return texts[0] or "nothing", texts[1] or "nothing"


def ks(now: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """(D, p) of the two-sample Kolmogorov-Smirnov test; D is the largest distance of the two distributions, 0 to 1.

    With ties, as counts of tokens have, p is too large rather than too small (Noether 1963).
    """
    from scipy.stats import ks_2samp

    found = ks_2samp(now, before, method="exact" if len(now) * len(before) < _EXACT_BELOW else "asymp")
    return float(found.statistic), float(found.pvalue)


def chi_square(now: Sequence[str], before: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """(Cramer's V, p) of the chi-square test of homogeneity; V is 0 (the same shares) to 1.

    Where a cell is expected to have fewer than five, p comes from random tables with the same margins instead.
    """
    import numpy as np
    from scipy.stats import MonteCarloMethod, chi2_contingency
    from scipy.stats.contingency import association

    names = sorted(set(now) | set(before))
    if len(names) < 2:
        return 0.0, 1.0
    table = np.array([[Counter(side)[name] for name in names] for side in (now, before)])
    found = chi2_contingency(table)
    if found.expected_freq.min() < _LEAST_EXPECTED:
        drawn = MonteCarloMethod(n_resamples=_RESAMPLES, rng=np.random.default_rng(seed))
        found = chi2_contingency(table, correction=False, method=drawn)
    return float(association(table, method="cramer")), float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - step)))
        adjusted[index] = largest
    return adjusted
