"""Figures of a period: known answers, nothing where there is nothing, and the limits that they cross."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from genai_lifecycle.monitoring import measures
from genai_lifecycle.monitoring.drift import samples
from genai_lifecycle.monitoring.request_table import answer_table, is_declined, is_positive, request_table
from genai_lifecycle.monitoring.rules import Limit, Rules
from genai_lifecycle.store.served import GeneratedAnswer, ServedRequest, StoredFeedback

NOON_MS = 1_700_049_600_000  # 2023-11-15 12:00 UTC
DAY_MS = 86_400_000
LOOP = "go go go go go"  # of its three word triples two occur twice


def request(latency_ms=100.0, error=None, opinions=(), reason="stop", time_ms=NOON_MS, text="Yes.", tokens=5):
    answer = GeneratedAnswer(text, reason, 9, tokens)
    feedback = tuple(StoredFeedback("score", value, None, "ann") for value in opinions)
    return ServedRequest("tr", "r", time_ms, latency_ms, "m", "7", "qa/1", error, answer, "Why?", False, feedback)


def table(*requests) -> pd.DataFrame:
    return request_table(requests, Rules())


def values(*requests) -> dict[str, float | None]:
    return {item.name: item.value for item in measures.measure(table(*requests))}


def test_the_figures_of_known_requests():
    found = values(
        request(10.0, tokens=4, text=LOOP, opinions=[True]), request(30.0, text="I don't know about that.", tokens=8),
        request(20.0, reason="timeout", opinions=[True, False, "hm"]), request(9000.0, error="engine_down"),
        request(9000.0, error="caller_left"),
    )  # fmt: skip
    assert found["requests"] == 5 and found["latency_p50_ms"] == 20.0 and found["latency_p99_ms"] < 31
    assert found["error_rate"] == 0.25  # one of the four whose caller waited
    assert found["timeout_share"] == found["declined_share"] == pytest.approx(1 / 3)
    assert found["answer_tokens"] == pytest.approx(17 / 3) and found["repetition"] == pytest.approx(2 / 9)
    assert found["positive_share"] == pytest.approx(2 / 3)


def test_nothing_gives_nothing():
    found = values()
    assert found.pop("requests") == 0 and set(found.values()) == {None}
    assert values(request(error="engine_down"))["latency_p95_ms"] is None


def test_every_day_of_the_period_is_there():
    requests = table(request(opinions=[True, False]), request(300.0), request(error="x"),
                     request(error="caller_left", time_ms=NOON_MS + 2 * DAY_MS))  # fmt: skip
    days = measures.by_day(requests, NOON_MS, NOON_MS + 2 * DAY_MS + 1)
    counts = zip(days.index.date, days["requests"], days["errors"], days["opinions"], days["positive"], strict=True)
    assert list(counts) == [
        (date(2023, 11, 15), 3, 1, 2, 1), (date(2023, 11, 16), 0, 0, 0, 0), (date(2023, 11, 17), 1, 0, 0, 0),
    ]  # fmt: skip
    np.testing.assert_array_equal(days["p50_ms"], [200.0, np.nan, np.nan])
    assert measures.by_day(table(), NOON_MS, NOON_MS + DAY_MS)["requests"].tolist() == [0, 0]


def test_errors_and_groups_come_with_the_most_frequent_first():
    requests = table(request(error="a"), request(), request(error="b"), request(error="b"))
    assert list(measures.errors(requests).items()) == [("b", 2), ("a", 1)]
    assert measures.groups(requests) == {"qa/1 on m version 7": 4}


def test_a_limit_is_checked_where_there_are_enough():
    rules = Rules(minimum_count=10, limits={"latency_p95_ms": Limit(at_most=50), "requests": Limit(at_least=20)})
    few, many = (measures.measure(table(*[request()] * count)) for count in (9, 10))
    assert [item.measure for item in measures.crossed_limits(few, [], rules)] == ["requests"]
    assert measures.too_few(few, rules) == ["too few for a verdict, fewer than 10: latency_p95_ms (9)"]
    (latency, _) = measures.crossed_limits(many, [], rules)
    assert latency.message == "latency_p95_ms is 100 over 10 requests; the limit is at most 50"
    assert "/metrics" in latency.advice and measures.too_few(many, rules) == []


def test_what_was_not_measured_is_not_compared():
    now, before = [GeneratedAnswer(None, "stop", None, 5)], [GeneratedAnswer("Yes.", "stop", 9, 5)]
    names = [item.measure for item in samples("qa/1", answer_table(now, Rules()), answer_table(before, Rules()))]
    assert names == ["answer_tokens", "finish_reason"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (False, False), (1, True), (0, False), (0.5, True), ("Yes", True), (" 👎 ", False), ("so so", None),
     (None, None)],
)  # fmt: skip
def test_what_is_positive(value, expected):
    assert is_positive(StoredFeedback("score", value, None, "ann"), Rules()) is expected


def test_a_rating_has_a_threshold_of_its_own():
    rules = Rules(positive_from={"default": 0.5, "rating": 4})
    assert [is_positive(StoredFeedback("rating", value, None, "ann"), rules) for value in (3, 4)] == [False, True]


def test_declining_is_known_by_how_an_answer_begins():
    phrases = Rules().declined
    assert is_declined("I don't know about that. Ask about MLflow.", phrases) and is_declined(
        "i do not know about that!", phrases
    )
    assert not is_declined("People who don't know about that ask.", phrases) and not is_declined("", phrases)
