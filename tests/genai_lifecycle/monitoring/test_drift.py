"""Drift: equal samples are called equal, shifted ones are found, few are not tested."""

from __future__ import annotations

from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from genai_lifecycle.monitoring.drift import CHI_SQUARE, KS, Sample, chi_square, compare, ks
from genai_lifecycle.monitoring.rules import DriftRules

ANY_EFFECT = DriftRules(least_effect=0.0)
WORDS = np.array(["stop", "length"])
REPORTS, REQUESTS, CASES = 300, 120, 80


def drawn(rng, shift: float = 0.0, share: float = 0.3) -> list[Sample]:
    """A report's samples: tokens as whole numbers with many ties, a continuous score, two words."""
    size = {"now": REQUESTS, "before": CASES}
    tokens = {side: np.round(rng.normal(12 + shift * (side == "now"), 3, n)) for side, n in size.items()}
    scores = {side: rng.beta(2, 5, n) for side, n in size.items()}
    words = {"now": WORDS[(rng.random(REQUESTS) < share).astype(int)], "before": WORDS[(rng.random(CASES) < 0.3) * 1]}
    return [
        sample("answer_tokens", **tokens), sample("repetition", **scores), sample("finish_reason", **words),
    ]  # fmt: skip


def sample(measure: str, now, before) -> Sample:
    return Sample("qa/1", measure, pd.Series(now), pd.Series(before))


def alarms(reports: int, measure: str | None = None, **given) -> int:
    rng = np.random.default_rng(1)
    results = [compare(drawn(rng, **given), 30, ANY_EFFECT) for _ in range(reports)]
    return sum(any(item.outcome == "drift" and measure in (None, item.measure) for item in one) for one in results)


def test_without_drift_no_more_than_one_report_in_twenty_says_drift():
    assert 0 < alarms(REPORTS) <= binom.ppf(0.99, REPORTS, 0.05)


@pytest.mark.parametrize(("measure", "given"), [("answer_tokens", {"shift": 3.0}), ("finish_reason", {"share": 0.65})])
def test_a_real_shift_is_found(measure, given):
    assert alarms(30, measure, **given) >= 29


def test_a_small_difference_is_no_drift_however_sure():
    rng = np.random.default_rng(2)
    close = sample("repetition", rng.normal(0.1, 1, 20_000), rng.normal(0, 1, 20_000))
    sure = compare([close], 30, ANY_EFFECT)[0]
    assert (sure.outcome, sure.test) == ("drift", KS) and sure.p_value < 1e-6 and sure.effect < 0.1
    assert compare([close], 30, DriftRules())[0].outcome == "none"


def test_few_are_not_tested_and_take_nothing_from_the_others():
    few = [sample("answer_tokens", [1.0] * 29, [2.0] * 500)] * 50
    *untested, tested = compare([*few, sample("repetition", [1.0] * 30, [2.0] * 30)], 30, ANY_EFFECT)
    assert {(item.outcome, item.p_value) for item in untested} == {("too few", 1.0)}
    assert tested.outcome == "drift" and tested.p_value == pytest.approx(2 / comb(60, 30))  # one test, so not times 51


def test_known_answers():
    effect, p_value = ks([1.0, 2.0], [3.0, 4.0])
    assert (effect, p_value) == (1.0, pytest.approx(1 / 3))  # 2 of the 6 orders are this far apart
    effect, p_value = chi_square(["a"] * 60 + ["b"] * 40, ["a"] * 40 + ["b"] * 60)
    assert effect == pytest.approx(0.2)  # (60 * 60 - 40 * 40) / (100 * 100)
    assert p_value == pytest.approx(0.00720, abs=1e-5)  # (|20| - 1)^2 * ... with Yates' correction: 7.22
    assert chi_square(["a"] * 9, ["a"] * 3) == (0.0, 1.0)


def test_rare_words_do_not_make_an_alarm():
    """The chi-square distribution says 0.04 here; Fisher's exact test 0.10."""
    p_value = chi_square(["stop"] * 58 + ["timeout"] * 2, ["stop"] * 120)[1]
    assert 0.05 < p_value < 0.2


def test_both_sides_are_described():
    (result,) = compare([sample("finish_reason", ["stop"] * 40, ["stop"] * 30 + ["length"] * 10)], 30, DriftRules())
    assert (result.test, result.now, result.before) == (CHI_SQUARE, "length 0%, stop 100%", "length 25%, stop 75%")
    (result,) = compare([sample("answer_tokens", [3.0, 4.0], [12.0])], 30, DriftRules())
    assert (result.now, result.before) == ("median 3.5", "median 12")
