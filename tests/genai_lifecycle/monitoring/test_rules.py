"""monitor.yaml: the one of this checkout is right, and what is wrong in another one is named."""

from __future__ import annotations

import pytest
from conftest import REPO

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.monitoring.rules import DriftRules, Limit, Rules, load_rules


def test_the_checkouts_own_file():
    rules = load_rules(REPO / "monitor.yaml")
    assert rules.limits["error_rate"] == Limit(at_most=0.05) and rules.drift == DriftRules()
    assert (rules.minimum_count, rules.declined) == (30, ("I don't know about that", "I do not know about that"))
    assert (rules.least_positive("rating"), rules.least_positive("score")) == (4, 0.5)


def test_an_empty_file_has_no_limits(tmp_path):
    (tmp_path / "monitor.yaml").write_text("")
    assert load_rules(tmp_path / "monitor.yaml") == Rules()


@pytest.mark.parametrize(
    ("text", "problem", "allowed"),
    [
        ("limits: {latency: {at_most: 3}}", "limits.latency is unknown", "'requests', 'latency_p50_ms'"),
        ("limits: {error_rate: 0.1}", "limits.error_rate is 0.1", "an object"),
        ("limits: {error_rate: {}}", "limits.error_rate needs at_most, at_least or both", "every key"),
        ("limits: {error_rate: {at_mst: 1}}", "limits.error_rate.at_mst is unknown", "Use at_most, at_least."),
        ("limits: {error_rate: {at_most: .nan}}", "limits.error_rate.at_most is", "a finite number"),
        ("limits: {error_rate: {at_most: yes}}", "limits.error_rate.at_most is True", "a valid number"),
        ("minimum_count: 0", "minimum_count is 0", "greater than or equal to 2"),
        ("declined: I do not know", "declined is 'I do not know'", "a valid array"),
        ("declined: ['a.']", "needs words in each text of 'declined'", "every key"),
        ("positive_from: {rating: high}", "positive_from.rating is 'high'", "a valid number"),
        ("drift: {alpha: 5}", "drift.alpha is 5", "less than or equal to 1"),
        ("drift: {fails: 1}", "drift.fails is 1", "a valid boolean"),
        ("drift: {alfa: 1}", "drift.alfa is unknown", "Use alpha, least_effect, fails."),
        ("limit: {}", "limit is unknown", "Use minimum_count, declined, positive_from, limits, drift."),
        ("- a", "the content is ['a']", "an object"),
        ("a: [", "is no YAML", "every key"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(tmp_path, text, problem, allowed):
    (tmp_path / "monitor.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_rules(tmp_path / "monitor.yaml")
    assert problem in caught.value.args[0] and "monitor.yaml" in caught.value.args[0] and allowed in caught.value.hint


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules(tmp_path / "none.yaml")


def test_a_section_without_a_key_has_its_defaults(tmp_path):
    (tmp_path / "monitor.yaml").write_text("limits:\n#  error_rate: {at_most: 1}\ndrift: {fails: no}\n")
    assert load_rules(tmp_path / "monitor.yaml") == Rules(drift=DriftRules(fails=False))


def test_a_limit_is_crossed_on_either_side():
    both = Limit(at_most=50, at_least=5)
    assert [both.is_crossed(value) for value in (4.9, 5, 50, 50.1)] == [True, False, False, True]
    assert str(both) == "at least 5 and at most 50"
