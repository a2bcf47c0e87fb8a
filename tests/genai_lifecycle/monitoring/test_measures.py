"""Figures of a period: known answers, nothing where there is nothing, and the limits that they cross."""

from __future__ import annotations

from datetime import date

import pytest

from genai_lifecycle.monitoring import measures
from genai_lifecycle.monitoring.records import Answer, Group, Request, is_declined, positive
from genai_lifecycle.monitoring.rules import Limit, Rules
from genai_lifecycle.store.served import StoredFeedback

NOON_MS = 1_700_049_600_000  # 2023-11-15 12:00 UTC
DAY_MS = 86_400_000
GROUP = Group("qa/1", "m", "7")


def request(latency_ms=100.0, error=None, opinions=(), reason="stop", time_ms=NOON_MS, **answer) -> Request:
    told = {"prompt_tokens": 9, "answer_tokens": 5, "repetition": 0.0, "declined": False} | answer
    return Request(time_ms, latency_ms, GROUP, error, None if error else Answer(reason, **told), tuple(opinions), 0)


def values(requests) -> dict[str, float | None]:
    return {item.name: item.value for item in measures.measure(requests)}


def test_the_figures_of_known_requests():
    found = values([
        request(10.0, answer_tokens=4, repetition=0.5, opinions=[True]), request(30.0, declined=True, answer_tokens=8),
        request(20.0, reason="timeout", opinions=[True, False]), request(9000.0, error="engine_down"),
        request(9000.0, error="caller_left"),
    ])  # fmt: skip
    assert found["requests"] == 5 and found["latency_p50_ms"] == 20.0 and found["latency_p99_ms"] < 31
    assert found["error_rate"] == 0.25  # one of the four whose caller waited
    assert found["timeout_share"] == found["declined_share"] == pytest.approx(1 / 3)
    assert found["answer_tokens"] == pytest.approx(17 / 3) and found["repetition"] == pytest.approx(0.5 / 3)
    assert found["positive_share"] == pytest.approx(2 / 3)


def test_nothing_gives_nothing():
    found = values([])
    assert found.pop("requests") == 0 and set(found.values()) == {None}
    assert values([request(error="engine_down")])["latency_p95_ms"] is None


def test_every_day_of_the_period_is_there():
    days = measures.by_day([request(), request(error="x"), request(error="caller_left", time_ms=NOON_MS + 2 * DAY_MS)],
                           NOON_MS, NOON_MS + 2 * DAY_MS + 1)  # fmt: skip
    assert [(item.day, item.requests, item.errors) for item in days] == [
        (date(2023, 11, 15), 2, 1), (date(2023, 11, 16), 0, 0), (date(2023, 11, 17), 1, 0),
    ]  # fmt: skip
    assert (days[0].p50_ms, days[1].p50_ms) == (100.0, None)


def test_a_limit_is_checked_where_there_are_enough():
    rules = Rules(minimum_count=10, limits=(Limit("latency_p95_ms", at_most=50), Limit("requests", at_least=20)))
    few, many = (measures.measure([request()] * count) for count in (9, 10))
    assert [item.measure for item in measures.crossed(few, [], rules)] == ["requests"]
    assert measures.too_few(few, rules) == ["too few for a verdict, fewer than 10: latency_p95_ms (9)"]
    (latency, _) = measures.crossed(many, [], rules)
    assert latency.said == "latency_p95_ms is 100 over 10 requests; the limit is at most 50"
    assert "/metrics" in latency.advice and measures.too_few(many, rules) == []


def test_what_was_not_measured_is_not_compared():
    blind = [request(repetition=None, declined=None, prompt_tokens=None).answer]
    names = [item.measure for item in measures.samples("qa/1", blind, [request().answer])]
    assert names == ["answer_tokens", "finish_reason"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (False, False), (1, True), (0, False), (0.5, True), ("Yes", True), (" 👎 ", False), ("so so", None),
     (None, None)],
)  # fmt: skip
def test_what_is_positive(value, expected):
    assert positive(StoredFeedback("score", value, None, "ann"), Rules()) is expected


def test_a_rating_has_a_threshold_of_its_own():
    rules = Rules(positive_from={"default": 0.5, "rating": 4})
    assert [positive(StoredFeedback("rating", value, None, "ann"), rules) for value in (3, 4)] == [False, True]


def test_declining_is_known_by_how_an_answer_begins():
    phrases = Rules().declined
    assert is_declined("I don't know about that. Ask about MLflow.", phrases) and is_declined(
        "i do not know about that!", phrases
    )
    assert not is_declined("People who don't know about that ask.", phrases) and not is_declined("", phrases)
