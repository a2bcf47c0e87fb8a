"""`AnswerRequest`: what a caller asked for, whichever route it came by. Answering, metrics and traces all read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genai_server.prompts.selection import PromptText


@dataclass(frozen=True)
class AnswerRequest:
    """One question with its parameters."""

    question: Mapping[str, Any]  # question and history, or a text to continue
    params: Mapping[str, Any]
    request_id: str
    operation: str  # ask | chat | text_completion | invocations
    traceparent: str | None = None
    prompt: PromptText | None = None  # that the caller named
    variables: Mapping[str, str] = field(default_factory=dict)  # beside the question
    headers: dict[str, str] = field(default_factory=dict)  # of the response: who answers is written there
    group: int | None = None  # of the questions of one request, which hold their places; None = it needs one
