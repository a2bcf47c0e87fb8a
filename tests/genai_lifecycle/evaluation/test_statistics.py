"""Intervals and verdicts: answers that are known, coverage in a simulation, the same seed the same interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from genai_lifecycle.evaluation.statistics import (
    ALPHA,
    Interval,
    compare,
    difference_interval,
    holm,
    mean_interval,
    more_cases,
    p_values,
    paired_differences,
    verdict,
)

RIPPLE = np.array([(-1) ** i for i in range(60)])


def decide(scores, incumbent=None):
    return verdict(scores, metric="token_f1", seed=0, incumbent=incumbent)


def noisy(mean: float, seed: int, count: int = 60) -> list[float]:
    return list(np.clip(np.random.default_rng(seed).normal(mean, 0.1, count), 0, 1))


def test_an_interval_of_equal_or_few_values_is_the_mean():
    assert mean_interval([0.25, 0.25, 0.25], 0) == Interval(0.25, 0.25, 0.25)
    assert mean_interval([0.7], 0) == Interval(0.7, 0.7, 0.7)
    assert difference_interval([0.1, 0.1]) == Interval(0.1, 0.1, 0.1)
    assert difference_interval([0.7]) == Interval(0.7, 0.7, 0.7)


def test_the_interval_of_a_share_stays_between_0_and_1():
    interval = mean_interval([1.0] * 19 + [0.0], 0)
    assert 0.6 < interval.low < 0.95 and interval.high == 1.0


def test_the_interval_of_differences_is_students():
    """Student (1908), extra sleep by drug 2 minus drug 1; R's t.test prints 0.7001142 to 2.4598858."""
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    interval = difference_interval(sleep)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((1.58, 0.7001142, 2.4598858))


def test_an_interval_close_to_the_normal_one():
    values = np.random.default_rng(1).normal(0.5, 0.2, 200)
    result = mean_interval(values, 0)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert result.mean == pytest.approx(values.mean())
    assert (result.low, result.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)


def test_a_seed_repeats():
    values = noisy(0.5, 3)
    assert mean_interval(values, 5) == mean_interval(values, 5) != mean_interval(values, 6)
    assert decide({"a": values, "b": noisy(0.5, 4)}) == decide({"a": values, "b": noisy(0.5, 4)})


# --- simulated: docs/evaluation.md has the figures over 20 seeds ----------------------------------

COMPARISONS = 1000
RESAMPLES = 999


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
    intervals = [difference_interval(row) for row in kind(shift, 7)]
    assert 0.93 <= np.mean([item.low <= truth <= item.high for item in intervals]) <= 0.97


@pytest.mark.parametrize("cases", [10, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_two_equal_prompts_win_by_chance_in_at_most_5_of_100_comparisons(kind, cases):
    wins = np.count_nonzero(np.array(p_values(kind(0.0, 5, cases)[:400], 0, RESAMPLES)) <= ALPHA)
    assert wins <= binom.ppf(0.99, 400, ALPHA)


def test_a_better_prompt_wins():
    """A rule that never names a winner is none."""
    assert np.mean(np.array(p_values(graded(0.15, 5)[:200], 0, RESAMPLES)) <= ALPHA) > 0.9


def test_p_values_known_by_counting_signs():
    """With 4 differences there are 16 ways to turn signs; of few cases each is tried."""
    exact = p_values([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, -4.0], [0.0] * 4], 0)
    assert list(exact) == [2 / 16, 14 / 16, 1.0]  # the second: all sums but the two of 0 are as far out as 2
    assert list(p_values([[0.5], [-0.5]], 0)) == [1.0, 1.0]


def test_a_few_cases_that_differ_are_not_told_from_chance():
    """Five of twenty: of 32 ways to turn their signs, 4 are as far out."""
    differences = [1.0, 0.5, 0.5, 0.4] + [0.0] * 15 + [-0.1]
    result = decide({"a": differences, "b": [0.0] * 20})
    assert result.outcome == "tie" and result.comparisons[0].p_value == pytest.approx(4 / 32, abs=0.02)


def test_an_obvious_win():
    result = decide({"worse": noisy(0.3, 1), "better": noisy(0.6, 2)}, incumbent="worse")
    assert (result.outcome, result.winner, result.runner_up) == ("win", "better", "worse")
    assert 0.2 < result.difference.low < result.difference.mean < result.difference.high < 0.4
    assert str(result).startswith("win: better beats worse by +0.")


def test_pairing_finds_a_small_steady_difference():
    hard = noisy(0.5, 1)  # the cases differ much more among themselves than the prompts do
    steady = [value + 0.02 + 0.001 * (-1) ** i for i, value in enumerate(hard)]
    assert decide({"a": hard, "b": steady}).outcome == "win"
    assert decide({"a": hard, "b": list(reversed(steady))}).outcome == "tie"


def test_a_tie_keeps_the_prompt_in_production():
    scores = {"a": noisy(0.5, 1), "b": noisy(0.5, 2), "c": noisy(0.5, 3)}
    leader = max(scores, key=lambda name: sum(scores[name]))
    for name in scores:
        result = decide(scores, incumbent=name)
        assert (result.outcome, result.winner) == ("tie", name)
        assert result.difference.low <= 0 <= result.difference.high
    assert decide(scores).winner == leader
    assert decide(scores, incumbent="a prompt of long ago").winner == leader
    assert str(decide(scores, incumbent="a")).startswith("tie: a stays")


def test_a_clearly_worse_prompt_does_not_stay_on_a_tie_of_the_leading_two():
    scores = {"a": noisy(0.6, 1), "b": noisy(0.6, 2), "old": noisy(0.2, 3)}
    result = decide(scores, incumbent="old")
    assert result.outcome == "tie"
    assert result.winner in ("a", "b")


def test_equal_scores_are_a_tie():
    same = noisy(0.5, 1)
    result = decide({"a": same, "b": list(same)}, incumbent="b")
    assert (result.outcome, result.winner, result.difference.mean) == ("tie", "b", 0)


def test_holm():
    """By hand: 0.01 * 3; then 0.03 * 2; then 0.04, which may not be below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_the_leader_must_beat_every_other_prompt():
    base = np.asarray(noisy(0.5, 1))
    near, mid, far = (base - shift - 0.05 * RIPPLE for shift in (0.03, 0.1, 0.3))
    result = decide({"near": near, "far": far, "lead": base, "mid": mid})
    assert (result.outcome, result.winner, result.runner_up) == ("win", "lead", "near")
    assert [item.outcome for item in result.comparisons] == ["win"] * 3
    tie = decide({"same": base + 0.05 * RIPPLE, "far": far, "lead": base})
    assert (tie.outcome, [item.outcome for item in tie.comparisons]) == ("tie", ["win", "tie"])


def test_two_comparisons_need_more_than_one_does():
    """7 differences of one sign: p is 2 / 128 for one; 6: 2 / 64, which is above ALPHA / 2."""
    six, seven = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    (alone,) = compare("lead", {"a": six}, 0)
    assert (alone.outcome, alone.p_value) == ("win", pytest.approx(2 / 64))
    assert [item.outcome for item in compare("lead", {"a": six, "b": six}, 0)] == ["tie", "tie"]
    first, second = compare("lead", {"a": six, "b": seven}, 0)
    assert (first.other, first.p_value, first.outcome) == ("b", pytest.approx(4 / 128), "win")
    assert (second.other, second.p_value, second.outcome) == ("a", pytest.approx(2 / 64), "win")


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
    result = decide({"a": list(differences + 0.6), "b": [0.45] * 100})
    assert result.outcome == "tie" and str(result).endswith(f"; about {result.cases_needed} more cases needed")


def test_one_case_is_no_win():
    assert decide({"a": [1.0], "b": [0.0]}).outcome == "tie"


def test_lists_of_different_length_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="shorter"):
        paired_differences([1.0, 2.0], [1.0])
