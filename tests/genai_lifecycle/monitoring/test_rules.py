"""monitor.yaml: the one of this checkout is right, and what is wrong in another one is named."""

from __future__ import annotations

import pytest
from conftest import REPO

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.monitoring.rules import ADVICE, Limit, Rules, load_rules


def test_the_checkouts_own_file():
    rules = load_rules(REPO / "monitor.yaml")
    assert {limit.measure for limit in rules.limits} <= set(ADVICE)
    assert Limit("error_rate", at_most=0.05) in rules.limits and rules.drift.fails
    assert (rules.least_positive("rating"), rules.least_positive("score")) == (4, 0.5)


def test_an_empty_file_has_no_limits(tmp_path):
    (tmp_path / "monitor.yaml").write_text("")
    assert load_rules(tmp_path / "monitor.yaml") == Rules()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limits: {latency: {at_most: 3}}", "'latency' in limits is unknown"),
        ("limits: {error_rate: 0.1}", "error_rate has no keys with values"),
        ("limits: {error_rate: {}}", "the limit of error_rate is empty"),
        ("limits: {error_rate: {at_most: .nan}}", "error_rate.at_most is nan"),
        ("limits: {error_rate: {at_most: yes}}", "error_rate.at_most is True"),
        ("minimum_count: 0", "minimum_count is 0"),
        ("declined: I do not know", "declined is 'I do not know'"),
        ("positive_from: {rating: high}", "positive_from.rating is 'high'"),
        ("drift: {alpha: 5}", "drift.alpha is 5"),
        ("drift: {fails: 1}", "drift.fails is 1"),
        ("- a", "the file has no keys"),
        ("a: [", "is no YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    (tmp_path / "monitor.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_rules(tmp_path / "monitor.yaml")
    assert said in str(caught.value) and "monitor.yaml" in str(caught.value) and caught.value.hint


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules(tmp_path / "none.yaml")


def test_a_limit_is_crossed_on_either_side():
    both = Limit("answer_tokens", at_most=50, at_least=5)
    assert [both.is_crossed(value) for value in (4.9, 5, 50, 50.1)] == [True, False, False, True]
    assert str(both) == "at least 5 and at most 50"
