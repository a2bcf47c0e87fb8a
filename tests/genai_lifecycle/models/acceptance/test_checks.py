"""Every check of mode `test`: an observation that passes, and ones that must fail with a reason."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.models.acceptance.checks import F1_MARGIN, all_checks

ANSWER = {"answer": "One is a number.", "token_ids": [1, 2, 3], "finish_reason": "stop", "completion_tokens": 3}
OTHER = ANSWER | {"answer": "Two.", "token_ids": [9]}
CASES = [Case("What is 1?", "One is a number."), Case("What is 2?", "Two is a number.")]
REFUSAL = {"error_code": "INVALID_PARAMETER_VALUE", "message": "A question is empty; write some text."}
GOLDEN = {"question": "What is 1?", "answer": "One is a number.", "token_ids": [1, 2, 3], "max_new_tokens": 10}
GOOD = {
    "load_s": 1.0,
    "compute_s": 1.0,
    "weights_sha256": "abc",
    "engine": {"name": "openvino", "precision": "int8", "threads": 2, "reason": "the package has a converted model"},
    "conversion": {"converted": True},
    "forms": {"string": {"predictions": [ANSWER]}, "dict": {"predictions": [ANSWER]}},
    "refused": {"empty question": REFUSAL, "number": REFUSAL},
    "params": {name: {"predictions": [ANSWER]} for name in ("short", "sampled", "sampled again")},
    "bad_params": REFUSAL,
    "stream": {"text": "One is a number.", "last": ANSWER, "events": 4},
    "golden": [{"expected": GOLDEN, "answer": ANSWER, "seconds": 0.5}] * 3,
    "cases": [ANSWER, ANSWER | {"answer": "Two is a number."}],
}


def failed(observed: dict, expected_f1: float | None = 1.0) -> dict[str, str]:
    return {c.name: c.detail for c in all_checks(observed, CASES, expected_f1, "abc") if not c.passed}


def test_a_good_version_passes_every_check():
    checks = all_checks(GOOD, CASES, 1.0, "abc")
    assert [check.name for check in checks] == [
        "weights", "engine", "input as string", "input as dict", "refuses empty question", "refuses number",
        "parameters", "streaming", "golden answers", "case quality", "latency",
    ]  # fmt: skip
    assert all(check.passed and check.detail for check in checks)


def set_in(*path) -> Callable[[dict], None]:
    """A change of an observation: the last item is the new value, the ones before it lead to its place."""

    def change(observed: dict) -> None:
        place = observed
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1]

    return change


BROKEN = {
    "other weights": (set_in("weights_sha256", "abd"), "weights", "sha256 abd, not abc"),
    "a stand-in engine": (
        set_in("engine", {"name": "torch", "precision": "fp32", "threads": 2, "reason": "exit code 1"}),
        "engine",
        "made for openvino: exit code 1",
    ),
    "another answer to one form": (set_in("forms", "dict", {"predictions": [OTHER]}), "input as dict", "got"),
    "a form that is refused": (set_in("forms", "string", {"message": "no"}), "input as string", "no"),
    "two answers to one question": (set_in("forms", "dict", {"predictions": [ANSWER] * 2}), "input as dict", "got"),
    "no answer": (set_in("forms", "dict", {"predictions": []}), "input as dict", "got"),
    "bad input is answered": (set_in("refused", "number", {"predictions": [ANSWER]}), "refuses number", "not refused"),
    "bad input ends in a crash": (
        set_in("refused", "number", {"error_code": "INTERNAL_ERROR", "message": "x"}),
        "refuses number",
        "INTERNAL_ERROR",
    ),
    "a parameter is refused": (set_in("params", "short", REFUSAL), "parameters", "refused: short"),
    "the limit does not hold": (
        set_in("params", "short", {"predictions": [ANSWER | {"completion_tokens": 4}]}),
        "parameters",
        "max_new_tokens=3 gave more",
    ),
    "a seed does not repeat": (
        set_in("params", "sampled", {"predictions": [OTHER]}),
        "parameters",
        "differs from itself",
    ),
    "a wrong value is accepted": (set_in("bad_params", {"predictions": [ANSWER]}), "parameters", "temperature -1"),
    "a wrong value crashes": (set_in("bad_params", {"error_code": "INTERNAL_ERROR"}), "parameters", "temperature -1"),
    "other text streamed": (set_in("stream", "text", "One"), "streaming", "streamed 'One'"),
    "another last event": (set_in("stream", "last", OTHER), "streaming", "streamed"),
    "no event at all": (set_in("stream", {"text": "", "last": None, "events": 0}), "streaming", "streamed ''"),
    "too slow": (
        set_in("golden", [{"expected": GOLDEN, "answer": ANSWER, "seconds": 5.1}]),
        "latency",
        "slowest 5.10 s of 5 s",
    ),
    "answers missing": (set_in("cases", [ANSWER]), "case quality", "1 answers to 2 cases"),
    "poor answers": (set_in("cases", [OTHER, OTHER]), "case quality", "experiment 1.000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_fails_its_check_and_no_other(name):
    change, check, reason = BROKEN[name]
    observed = copy.deepcopy(GOOD)
    change(observed)
    assert list(failed(observed)) == [check]
    assert reason in failed(observed)[check]


def test_a_changed_golden_answer_fails():
    observed = copy.deepcopy(GOOD)
    observed["golden"][1] = {"expected": GOLDEN | {"question": "What is 2?"}, "answer": OTHER, "seconds": 0.1}
    assert failed(observed) == {"golden answers": "1 of 3 differ, first: 'What is 2?'"}


def test_quality_may_fall_by_the_margin_only():
    half = copy.deepcopy(GOOD) | {"cases": [ANSWER, ANSWER | {"answer": "nothing"}]}  # token F1 is 0.5
    assert failed(half, 0.5 + F1_MARGIN - 0.001) == {}
    assert "case quality" in failed(half, 0.5 + F1_MARGIN + 0.001)


def test_without_an_experiment_some_answers_must_succeed():
    nothing = copy.deepcopy(GOOD) | {"cases": [ANSWER | {"answer": " "}] * 2}
    assert failed(GOOD, None) == {}
    assert "no experiment to compare with" in failed(nothing, None)["case quality"]
