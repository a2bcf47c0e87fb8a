"""`Answer`: what a model answered. `ServedAnswer`: the same with who gave it, as the routes return it.

Made in one place from what a model returns (`answering/model_output.py`); metrics, traces and routes read it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and seconds of one answer."""

    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    total_s: float
    queued_s: float | None = None  # of total_s, before the engine began; models registered earlier do not measure it


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model. A model that is not ours may return nothing but the text."""

    text: str
    finish_reason: str = "stop"  # stop | length | timeout | cancelled
    usage: Usage | None = None
    token_ids: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerVersions:
    """Which model and which prompt made an answer."""

    model: str
    model_version: str | None
    prompt: str  # name/version
    prompt_source: str  # live | disk | model | named


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """An answer, the versions that made it and the request that it belongs to."""

    answer: Answer
    versions: AnswerVersions
    request_id: str
