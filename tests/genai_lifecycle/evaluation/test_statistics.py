"""Intervals and verdicts: answers that are known, coverage in a simulation, the same seed the same interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genai_lifecycle.evaluation.statistics import mean_interval, paired_difference, verdict
from genai_lifecycle.results import Interval


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


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    """250 samples of 40 scores; a bootstrap interval of 95 % covers a little less on so few (about 93 %)."""
    draws = np.random.default_rng(7).beta(2, 3, (250, 40))  # skewed as F1 scores are; mean 0.4
    intervals = [mean_interval(row, seed) for seed, row in enumerate(draws)]
    covered = np.mean([found.low <= 0.4 <= found.high for found in intervals])
    assert 0.89 <= covered <= 0.985


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


def test_confidence_is_raised_for_the_number_of_prompts():
    two = {"a": noisy(0.5, 1), "b": noisy(0.6, 2)}
    four = two | {"c": noisy(0.1, 3), "d": noisy(0.1, 4)}
    assert decide(two).difference.confidence == pytest.approx(0.95)
    assert decide(four).difference.confidence == pytest.approx(1 - 0.05 / 3)
    assert decide(four).difference.low < decide(two).difference.low


def test_equal_prompts_seldom_win_by_chance():
    rng = np.random.default_rng(11)
    wins = sum(
        decide({name: list(rng.beta(2, 3, 50)) for name in "abcd"}).outcome == "win" for _ in range(60)
    )  # 5 % at most in the long run: 3 of 60
    assert wins <= 6


def test_lists_of_different_length_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0], 0, 0.95)
