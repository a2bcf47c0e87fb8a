"""Intervals and verdicts: answers that are known, coverage in a simulation, the same seed the same interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genai_lifecycle.evaluation.statistics import (
    ALPHA,
    Interval,
    compare,
    difference_intervals,
    mean_interval,
    more_cases,
    p_value,
    paired_difference,
    verdict,
)

RIPPLE = np.array([(-1) ** i for i in range(60)])


def decide(scores, **given):
    return verdict(scores, metric="token_f1", seed=0, **given)


def noisy(mean: float, seed: int, count: int = 60) -> list[float]:
    return list(np.clip(np.random.default_rng(seed).normal(mean, 0.1, count), 0, 1))


def test_an_interval_of_equal_or_few_values_is_the_mean():
    assert mean_interval([0.25, 0.25, 0.25], 0) == Interval(0.25, 0.25, 0.25)
    assert mean_interval([0.7], 0) == Interval(0.7, 0.7, 0.7)


def test_an_interval_close_to_the_normal_one():
    values = np.random.default_rng(1).normal(0.5, 0.2, 200)
    found = mean_interval(values, 0)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)


def test_higher_confidence_is_wider_and_a_seed_repeats():
    values = noisy(0.5, 3)
    narrow, wide = mean_interval(values, 5, 0.8), mean_interval(values, 5, 0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert mean_interval(values, 5) == mean_interval(values, 5)
    assert mean_interval(values, 5) != mean_interval(values, 6)


# --- simulated: docs/evaluation.md has the figures over 20 seeds ----------------------------------

COMPARISONS = 1000
SEEDS = range(5, 11)  # one of them alone is moved by 0.7 either way by chance


def graded(shift: float, seed: int, cases: int = 40) -> np.ndarray:
    """Differences of two prompts over the same hard and easy cases, as F1 scores are."""
    rng = np.random.default_rng(seed)
    hard = rng.beta(2, 3, (COMPARISONS, cases))
    first, second = (np.clip(hard + rng.normal(mean, 0.15, hard.shape), 0, 1) for mean in (shift, 0.0))
    return first - second


def mostly_alike(shift: float, seed: int, cases: int = 40) -> np.ndarray:
    """Most answers are word for word the reference; one that is not has little of it."""
    rng = np.random.default_rng(seed)
    shape = (COMPARISONS, cases)
    right = np.where(rng.random(shape) < 0.8, 0.93, 0.35)
    first, second = (
        np.where(rng.random(shape) < right + mean, 1.0, rng.beta(1.5, 5, shape)) for mean in (shift / 4, 0.0)
    )
    return first - second


def right_or_wrong(shift: float, seed: int, cases: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    known = rng.beta(2, 2, (COMPARISONS, cases))
    first, second = (rng.random(known.shape) < known + mean for mean in (shift / 2, 0.0))
    return first.astype(float) - second


KINDS = (graded, mostly_alike, right_or_wrong)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_the_truth_in_93_to_97_of_100_comparisons(kind, shift):
    truth = kind(shift, 8, 400).mean() if shift else 0.0  # clipping takes a little of the shift away
    low, high = difference_intervals(kind(shift, 7), 0, resamples=1000)
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


@pytest.mark.parametrize("cases", [10, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_two_equal_prompts_win_by_chance_in_at_most_5_of_100_comparisons(kind, cases):
    draws = np.concatenate([kind(0.0, seed, cases) for seed in SEEDS])
    low, high = difference_intervals(draws, 0, 1 - ALPHA, resamples=1000)
    assert np.mean((low > 0) | (high < 0)) <= 0.05


def test_a_better_prompt_wins():
    """A rule that never names a winner is none."""
    assert np.mean(difference_intervals(graded(0.15, 5), 0, resamples=1000)[0] > 0) > 0.9


def test_the_p_value_is_where_the_interval_touches_0():
    for seed in range(5):
        values = list(np.random.default_rng(seed).normal(0.05, 0.15, 40))
        p = p_value(values, 0)
        low, high = (paired_difference(values, [0.0] * 40, 0, 1 - share * p) for share in (0.9, 1.1))
        assert low.low * low.high < 0 and (high.low > 0 or p > 0.9)
    assert (p_value([0.1, 0.1], 0), p_value([0.0, 0.0], 0), p_value([0.5], 0)) == (0.0, 1.0, 1.0)


def test_a_few_cases_that_differ_are_not_told_from_chance_by_the_bootstrap_alone():
    """Five of twenty: resampled, the mean stays above 0; by Student's distribution they are too few to say so."""
    differences = [1.0, 0.5, 0.5, 0.4] + [0.0] * 15 + [-0.1]
    assert mean_interval(differences, 0).low > 0
    found = decide({"a": differences, "b": [0.0] * 20})
    assert found.outcome == "tie" and found.difference.low < 0 < found.difference.high


def test_an_obvious_win():
    found = decide({"worse": noisy(0.3, 1), "better": noisy(0.6, 2)}, incumbent="worse")
    assert (found.outcome, found.winner, found.runner_up) == ("win", "better", "worse")
    assert 0.2 < found.difference.low < found.difference.mean < found.difference.high < 0.4
    assert str(found).startswith("win: better beats worse by +0.")


def test_pairing_finds_a_small_steady_difference():
    hard = noisy(0.5, 1)  # the cases differ much more among themselves than the prompts do
    steady = [value + 0.02 + 0.001 * (-1) ** i for i, value in enumerate(hard)]
    assert decide({"a": hard, "b": steady}).outcome == "win"
    assert decide({"a": hard, "b": list(reversed(steady))}).outcome == "tie"


def test_a_tie_keeps_the_prompt_in_production():
    scores = {"a": noisy(0.5, 1), "b": noisy(0.5, 2), "c": noisy(0.5, 3)}
    leader = max(scores, key=lambda name: sum(scores[name]))
    for name in scores:
        found = decide(scores, incumbent=name)
        assert (found.outcome, found.winner) == ("tie", name)
        assert found.difference.low <= 0 <= found.difference.high
    assert decide(scores).winner == leader
    assert decide(scores, incumbent="a prompt of long ago").winner == leader
    assert str(decide(scores, incumbent="a")).startswith("tie: a stays")


def test_a_clearly_worse_prompt_does_not_stay_on_a_tie_of_the_leading_two():
    scores = {"a": noisy(0.6, 1), "b": noisy(0.6, 2), "old": noisy(0.2, 3)}
    found = decide(scores, incumbent="old")
    assert found.outcome == "tie"
    assert found.winner in ("a", "b")


def test_equal_scores_are_a_tie():
    same = noisy(0.5, 1)
    found = decide({"a": same, "b": list(same)}, incumbent="b")
    assert (found.outcome, found.winner, found.difference.mean) == ("tie", "b", 0)


def test_holms_procedure_asks_most_of_the_surest_comparison():
    base = np.asarray(noisy(0.5, 1))
    steps = {"near": base - 0.02 - 0.001 * RIPPLE, "far": base - 0.3 - 0.05 * RIPPLE, "mid": base - 0.1 - 0.05 * RIPPLE}
    found = decide({"lead": base} | steps)
    assert (found.outcome, found.winner, found.runner_up) == ("win", "lead", "near")
    assert [item.difference.confidence for item in found.comparisons] == pytest.approx(
        [1 - ALPHA / step for step in (3, 2, 1)]
    )
    adjusted = [item.p_value for item in found.comparisons]
    assert adjusted == sorted(adjusted)


def test_after_the_first_comparison_that_fails_none_is_a_win():
    """Holm (1979), by hand: p-values 0.02 and 0.03 are both below ALPHA, but 0.03 is not below ALPHA / 2."""
    differences = {}
    for wanted in (0.02, 0.03):
        values = np.random.default_rng(4).normal(0, 0.2, 60)
        values -= values.mean()
        low, high = 0.0, 0.3
        while high - low > 1e-6:  # the shift at which the p-value is the wanted one
            middle = (low + high) / 2
            low, high = (middle, high) if p_value(values + middle, 0) > wanted else (low, middle)
        differences[str(wanted)] = values + high
    surest, other = compare("lead", differences, 0)
    assert (surest.outcome, other.outcome) == ("win", "win") if surest.p_value <= ALPHA else ("tie", "tie")
    both = compare("lead", {"a": differences["0.03"], "b": differences["0.03"] * 0.999}, 0)
    assert [item.outcome for item in both] == ["tie", "tie"]
    assert both[0].p_value == pytest.approx(0.06, abs=0.01)
    assert compare("lead", {"a": differences["0.03"]}, 0)[0].outcome == "win"


def test_equal_prompts_seldom_win_by_chance():
    rng = np.random.default_rng(11)
    wins = sum(
        decide({name: list(rng.beta(2, 3, 50)) for name in "abcd"}).outcome == "win" for _ in range(60)
    )  # 5 % at most in the long run: 3 of 60
    assert wins <= 5


def test_a_tie_says_how_many_more_cases_would_tell():
    rng = np.random.default_rng(2)
    differences = rng.normal(0, 1, 100)
    differences = (differences - differences.mean()) / differences.std(ddof=1)
    # ((1.960 + 0.842) * 1 / 0.2)^2 = 196 cases (Cohen 1988, table 2.4.1: 198 with t instead of z), 96 more than 100
    assert more_cases(list(differences + 0.2)) == 100
    assert more_cases(list(differences)) is None or more_cases(list(differences)) > 9000
    assert more_cases([0.0, 0.0]) is None and more_cases([0.3]) is None
    found = decide({"a": list(differences + 0.6), "b": [0.45] * 100})
    assert found.outcome == "tie" and str(found).endswith(f"; about {found.cases_needed} more cases needed")


def test_one_case_is_no_win():
    assert decide({"a": [1.0], "b": [0.0]}).outcome == "tie"


def test_lists_of_different_length_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0], 0, 0.95)
