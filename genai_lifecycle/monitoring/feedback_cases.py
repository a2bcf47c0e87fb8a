"""Feedback as cases: the questions that got feedback, with the answers that people expected instead."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.monitoring.request_table import EXPECTED
from genai_lifecycle.runtime.atomic_write import write_whole
from genai_lifecycle.store.served import ServedRequest

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON's escapes can name one; a case file cannot hold it
NO_TEXT = "the trace has no texts (TRACE_TEXTS=true)"
IN_CONVERSATION = "the question is part of a conversation"
NO_QUESTION = "what was asked is no question"


@dataclass(frozen=True)
class FeedbackCases:
    """A case for each question, and why other requests with feedback gave none."""

    cases: tuple[Mapping[str, str], ...]  # question, and reference where one was expected
    left_out: Mapping[str, int]


def cases_of(requests: Iterable[ServedRequest]) -> FeedbackCases:
    """One case for each question; of several expected answers the newest.

    Args:
        requests: those with feedback, newest first.
    """
    answers: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for request in requests:
        if reason := _unusable(request):
            left_out[reason] += 1
        elif not answers.get(request.question):
            answers[request.question] = _expected(request)
    cases = [{"question": question} | ({"reference": answer} if answer else {}) for question, answer in answers.items()]
    return FeedbackCases(tuple(reversed(cases)), dict(left_out))


def _unusable(request: ServedRequest) -> str:
    if request.question is None:
        return NO_TEXT
    if request.has_history:
        return IN_CONVERSATION
    is_text = isinstance(request.question, str) and request.question.strip()
    return "" if is_text and not _HALF_CHARACTER.search(request.question) else NO_QUESTION


def _expected(request: ServedRequest) -> str:
    answers = [item.value for item in request.feedback if item.name in EXPECTED and isinstance(item.value, str)]
    usable = [text for text in answers if text.strip() and not _HALF_CHARACTER.search(text)]
    return usable[-1] if usable else ""


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raises ConfigError where a file would be replaced without --overwrite."""
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already.", hint="Name another file with --to-cases, or add --overwrite.")


def write_cases(path: Path, cases: FeedbackCases) -> None:
    """JSON lines, in one step. Raises StorageFailed when they cannot be written."""
    write_whole(path, "".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases.cases))
