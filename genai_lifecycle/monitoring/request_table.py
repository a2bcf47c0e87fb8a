"""A period's requests as a pandas table: numbers and words, no texts, so that a long period fits in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from genai_lifecycle.evaluation.scorers import repetition, words
from genai_lifecycle.monitoring.rules import Rules
from genai_lifecycle.store.served import GeneratedAnswer, ServedRequest, StoredFeedback

if TYPE_CHECKING:
    from pandas import DataFrame

CALLER_LEFT = "caller_left"  # the server's word for a caller who did not wait; no error of ours
EXPECTED = ("expected_answer", "expected_response", "reference")  # names of feedback that is no opinion
GROUP = ["prompt", "model", "model_version"]  # the columns that say who answered
# Of an answer; what the traces do not have, and all of it where there was an error, is NaN.
ANSWER = {"finish_reason": "str", "prompt_tokens": "float", "answer_tokens": "float", "repetition": "float",
          "declined": "float"}  # fmt: skip
# `time_ms` is Unix time; `positive` and `comments` are counts of feedback, `opinions` those with a score.
REQUEST = {"time_ms": "int64", "latency_ms": "float", "prompt": "str", "model": "str", "model_version": "str",
           "error": "str", "opinions": "int64", "positive": "int64", "comments": "int64"} | ANSWER  # fmt: skip
_YES = {"yes", "true", "good", "up", "positive", "helpful", "correct", "👍"}
_NO = {"no", "false", "bad", "down", "negative", "unhelpful", "wrong", "👎"}


def request_table(requests: Iterable[ServedRequest], rules: Rules) -> DataFrame:
    """A row for each request, with the columns of REQUEST."""
    return _table([_request_row(request, rules) for request in requests], REQUEST)


def answer_table(answers: Iterable[GeneratedAnswer], rules: Rules) -> DataFrame:
    """A row for each answer, with the columns of ANSWER."""
    return _table([_answer_row(answer, rules) for answer in answers], ANSWER)


def _table(rows: list[dict[str, Any]], columns: Mapping[str, str]) -> DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))


def _request_row(request: ServedRequest, rules: Rules) -> dict[str, Any]:
    opinions = [is_positive(item, rules) for item in request.feedback if item.name not in EXPECTED]
    answer = {} if request.error else _answer_row(request.answer, rules)
    return answer | {
        "time_ms": request.start_ms, "latency_ms": request.latency_ms, "prompt": request.prompt,
        "model": request.model, "model_version": request.model_version, "error": request.error,
        "opinions": len(opinions) - opinions.count(None), "positive": opinions.count(True),
        "comments": opinions.count(None),
    }  # fmt: skip


def _answer_row(answer: GeneratedAnswer, rules: Rules) -> dict[str, Any]:
    row = {"finish_reason": answer.finish_reason, "prompt_tokens": answer.prompt_tokens,
           "answer_tokens": answer.answer_tokens}  # fmt: skip
    if answer.text is None:
        return row
    return row | {"repetition": repetition(answer.text), "declined": is_declined(answer.text, rules.declined)}


def is_declined(answer: str, phrases: Iterable[str]) -> bool:
    """Whether the answer begins as one that declines; compared without capitals and punctuation."""
    start = " ".join(words(answer))
    return any(start.startswith(" ".join(words(phrase))) for phrase in phrases)


def is_positive(feedback: StoredFeedback, rules: Rules) -> bool | None:
    """Whether feedback is positive; None for a comment, or a text that is neither yes nor no."""
    value = feedback.value
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value >= rules.least_positive(feedback.name)
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in _YES else False if word in _NO else None


def answered(requests: DataFrame) -> DataFrame:
    """The requests that got an answer."""
    return requests[requests["error"].isna()]


def group_name(prompt: str, model: str, model_version: str) -> str:
    """Who answered, in words."""
    return f"{prompt} on {model} version {model_version or 'unknown'}"
