"""What a served model returns, as the server's own types. The only place that knows the shape of a model's output.

MLflow lets a model return almost anything. A packaged model of ours returns a dict for each question; its fields are
those of `Answer` in served_model/text_generation/text_model.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pandas as pd

from genai_server.answer import Answer, Usage
from genai_server.runtime.metrics import EngineLoad

FINISH_REASONS = ("stop", "length", "timeout", "cancelled")
_MEASURED = {"prompt_tokens": int, "completion_tokens": int, "first_token_s": int | float, "total_s": int | float}


@dataclass(frozen=True, slots=True)
class ModelPrompt:
    """The prompt that is frozen in a model."""

    name: str
    version: str | int
    template: str
    turn_format: str | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class GoldenQuestion:
    """A question with the tokens that were recorded for it at deploy."""

    question: str
    token_ids: tuple[int, ...]
    max_new_tokens: int


def answer_of(row: Any) -> Answer:
    """The field `answer` of a row, or its only value, or all of it as JSON."""
    if not isinstance(row, Mapping):
        return Answer(str(row))
    if "answer" not in row:
        values = list(row.values())
        texts = {str(name): value for name, value in row.items()}
        return Answer(str(values[0]) if len(values) == 1 else json.dumps(texts, default=str))
    text, finish_reason = str(row["answer"]), row.get("finish_reason")
    if finish_reason not in FINISH_REASONS:
        return Answer(text)
    return Answer(
        text, finish_reason, _usage(row), tuple(_list(row, "token_ids")), tuple(map(str, _list(row, "warnings")))
    )


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    return value if isinstance(value, list) else []


def _usage(row: Mapping[str, Any]) -> Usage | None:
    """All of the figures or none: half of them cannot be calculated with."""
    if not all(isinstance(row.get(name), kind) and row[name] >= 0 for name, kind in _MEASURED.items()):
        return None
    queued_s = row.get("queued_s")
    return Usage(**{name: row[name] for name in _MEASURED}, queued_s=queued_s if isinstance(queued_s, float) else None)


async def pieces_of(rows: AsyncGenerator[Mapping[str, Any], None]) -> AsyncGenerator[str | Answer, None]:
    """A packaged model's stream: pieces of text, and at the end the whole answer."""
    async with aclosing(rows):
        async for row in rows:
            yield row["delta"] or answer_of(row)


def rows_of(predicted: Any) -> list[Any]:
    """One row for each question, of whatever MLflow lets a model return."""
    if isinstance(predicted, Mapping) and all(isinstance(column, list) for column in predicted.values()):
        predicted = pd.DataFrame(predicted)
    if isinstance(predicted, pd.DataFrame):
        records: list[Any] = predicted.to_dict("records")
        return records
    return [predicted] if isinstance(predicted, str | Mapping) else list(predicted)


def prompt_of(prompt: Mapping[str, Any]) -> ModelPrompt:
    """The packaged `prompt.json`."""
    return ModelPrompt(prompt["name"], prompt["version"], prompt["template"], prompt.get("turn_format"))


def golden_of(item: Mapping[str, Any]) -> GoldenQuestion:
    """One of the packaged golden questions."""
    return GoldenQuestion(item["question"], tuple(item["token_ids"]), item["max_new_tokens"])


def load_of(load: Any) -> EngineLoad:
    """How busy a packaged model's engine is; models registered earlier do not say how full the cache is."""
    return EngineLoad(load.running, load.waiting, load.restarts, getattr(load, "cache_usage", None))
