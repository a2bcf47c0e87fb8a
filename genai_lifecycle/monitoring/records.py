"""A request as numbers: what is kept of it once its texts were looked at, so that a long period fits in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from genai_lifecycle.evaluation.scorers import repetition, words
from genai_lifecycle.monitoring.rules import Rules
from genai_lifecycle.store.served import Generated, ServedRequest, StoredFeedback

CALLER_LEFT = "caller_left"  # the server's word for a caller who did not wait; no error of ours
EXPECTED = ("expected_answer", "expected_response", "reference")  # names of feedback that is no opinion
_YES = {"yes", "true", "good", "up", "positive", "helpful", "correct", "👍"}
_NO = {"no", "false", "bad", "down", "negative", "unhelpful", "wrong", "👎"}


@dataclass(frozen=True, slots=True)
class Group:
    """Who answered: a prompt and a model version."""

    prompt: str  # name/version
    model: str
    model_version: str

    def __str__(self) -> str:
        return f"{self.prompt} on {self.model} version {self.model_version or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer without its text. None: not measured, because the traces have no texts or no counts."""

    finish_reason: str
    prompt_tokens: int | None
    answer_tokens: int | None
    repetition: float | None  # 0..1
    declined: bool | None


@dataclass(frozen=True, slots=True)
class Request:
    """One request without its texts."""

    time_ms: int  # Unix time
    latency_ms: float
    group: Group
    error: str | None
    answer: Answer | None  # None: there was none
    opinions: tuple[bool, ...]  # of people, each positive or not
    comments: int  # feedback that is neither


def request_of(served: ServedRequest, rules: Rules) -> Request:
    """Reduce a traced request to what the report needs."""
    opinions = [positive(said, rules) for said in served.feedback if said.name not in EXPECTED]
    return Request(
        served.start_ms, served.latency_ms, Group(served.prompt, served.model, served.model_version), served.error,
        None if served.error else answer_of(served.made, rules),
        tuple(item for item in opinions if item is not None), opinions.count(None),
    )  # fmt: skip


def answer_of(made: Generated, rules: Rules) -> Answer:
    """Reduce an answer, of a server or of the baseline, to numbers."""
    text = made.answer
    return Answer(
        made.finish_reason, made.prompt_tokens, made.answer_tokens,
        None if text is None else repetition(text), None if text is None else is_declined(text, rules.declined),
    )  # fmt: skip


def is_declined(answer: str, phrases: Iterable[str]) -> bool:
    """Whether the answer begins as one that declines; compared without capitals and punctuation."""
    begins = " ".join(words(answer))
    return any(begins.startswith(" ".join(words(phrase))) for phrase in phrases)


def positive(said: StoredFeedback, rules: Rules) -> bool | None:
    """Whether feedback is positive; None for a comment, or a text that is neither yes nor no."""
    value = said.value
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value >= rules.least_positive(said.name)
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in _YES else False if word in _NO else None
