"""Every check, with an answer that passes and one that does not."""

from __future__ import annotations

import pytest

from genai_lifecycle.evaluation import checks
from genai_lifecycle.evaluation.answers import CaseAnswer
from genai_lifecycle.evaluation.checks import CHECKS, Assertion, Assessment, all_passed, run_check

LONG = "one two three " * 6
# name: (assertion, answer that passes, answer that does not)
EACH = {
    "equals": (Assertion("equals", "Paris"), " Paris\n", "paris"),
    "equals JSON": (Assertion("equals", {"a": [1]}), '{"a":  [1]}', '{"a": [2]}'),
    "contains": (Assertion("contains", "cat"), "a cat", "a Cat"),
    "icontains": (Assertion("icontains", "CAT"), "a cat", "a dog"),
    "contains-any": (Assertion("contains-any", ["a1", "b1"]), "b1", "c"),
    "contains-all": (Assertion("contains-all", "a1, b1"), "b1 a1", "a1"),
    "icontains-any": (Assertion("icontains-any", ["A1"]), "xa1", "b"),
    "icontains-all": (Assertion("icontains-all", ["A1", "b1"]), "B1a1", "A1"),
    "starts-with": (Assertion("starts-with", "Yes"), "Yes, it is", "It is, yes"),
    "regex": (Assertion("regex", r"\d{3}"), "abc 123", "12 3"),
    "is-json": (Assertion("is-json"), '[1, {"a": null}]', "[1"),
    "contains-json": (Assertion("contains-json"), 'It is {"a": 1}, see?', "It is {a}"),
    "levenshtein": (Assertion("levenshtein", "kitten", 3), "sitting", "a kitten sits"),
    "rouge-n": (Assertion("rouge-n", "the cat sat", 0.6), "the cat stood", "a dog stood"),
    "rouge-l": (Assertion("rouge-l", threshold=0.7), "Life is the answer", "The answer is a life"),
    "token-f1": (Assertion("token-f1", threshold=0.99), "an answer: life is!", "answer"),
    "exact-match": (Assertion("exact-match"), "life is the ANSWER.", "the answer is life"),
    "word-count": (Assertion("word-count", {"min": 2, "max": 3}), "two words", "now four words here"),
    "word-count exact": (Assertion("word-count", 2), "two words", "one"),
    "length": (Assertion("length", 5), "12345", "123456"),
    "repetition": (Assertion("repetition"), "one two three four", LONG),
}


@pytest.mark.parametrize("name", EACH)
def test_a_check_passes_and_fails(name):
    wanted, good, bad = EACH[name]
    for text, passes in ((good, True), (bad, False)):
        answered = CaseAnswer(text, reference="Life is the answer")
        found = run_check(answered, wanted)
        assert found.passed is passes, found
        assert found.why
        turned = Assertion(wanted.type, wanted.value, wanted.threshold, negated=True)
        assert run_check(answered, turned).passed is not passes
        assert run_check(answered, turned).name == f"not-{wanted.type}"


def test_checks_of_what_is_not_the_text():
    fast = CaseAnswer("a", completion_tokens=5, latency_ms=80, log_likelihood=-0.4, finish_reason="length")
    passing = [
        Assertion("latency", threshold=100), Assertion("tokens", {"max": 5}), Assertion("log-likelihood"),
        Assertion("finish-reason", "length"),
    ]  # fmt: skip
    failing = [
        Assertion("latency", threshold=79), Assertion("tokens", threshold=4),
        Assertion("log-likelihood", threshold=-0.3), Assertion("finish-reason", "stop"),
    ]  # fmt: skip
    assert [run_check(fast, item).passed for item in passing] == [True] * 4
    assert [run_check(fast, item).passed for item in failing] == [False] * 4
    assert not run_check(CaseAnswer("a"), Assertion("log-likelihood")).passed


def test_every_check_was_tried():
    tried = {wanted.type for wanted, _, _ in EACH.values()} | {"latency", "tokens", "log-likelihood", "finish-reason"}
    assert tried == set(CHECKS)


def test_what_is_left_out_is_known_and_what_is_misspelt_is_not():
    assert "judge" in checks.unsupported("not-llm-rubric")
    assert checks.unsupported("javascript") and checks.unsupported("similar")
    assert checks.unsupported("contains") is None and checks.unsupported("contians") is None
    assert "contains" in checks.nearest("contians")


def test_all_must_pass_or_a_weighted_share():
    made = [Assessment("a", 1, True, "", 3), Assessment("b", 0, False, "", 1), Assessment("c", 0, False, "", 0)]
    assert not all_passed(made, None)
    assert all_passed(made, 0.75) and not all_passed(made, 0.76)
    assert all_passed([made[0], made[2]], None), "a weight of 0 has no say"
    assert all_passed([], None) and all_passed([made[2]], 1.0)
