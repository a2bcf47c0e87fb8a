"""Every accepted form of input as a list of turns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .errors import bad_input

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON's escapes can name one; no tokenizer takes it


@dataclass(frozen=True)
class Turn:
    """One question with the turns before it (question, answer, question, answer, ...; may be empty)."""

    question: str
    history: tuple[str, ...] = ()


def turns_from(model_input: Any) -> list[Turn]:
    """Every accepted form of input as a list of turns.

    Args:
        model_input: a string; a dict with "question" (a string or a list) and perhaps "history"; a list of
            strings or such dicts; a Series of strings; or a DataFrame with the column `question` (and `history`).

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE with one sentence for anything else.
    """
    if hasattr(model_input, "to_dict") and hasattr(model_input, "columns"):
        model_input = model_input.to_dict(orient="records")
    elif hasattr(model_input, "tolist"):
        model_input = model_input.tolist()
    items = model_input if isinstance(model_input, list) else [model_input]
    turns = [turn for item in items for turn in _turns_of_item(item)]
    if not turns:
        raise bad_input("There is no question in the input; send at least one.")
    return turns


def _turns_of_item(item: Any) -> list[Turn]:
    if isinstance(item, Mapping):
        if "question" not in item:
            raise bad_input(f"The input has no 'question'; it has {sorted(map(str, item))}.")
        questions, history = item["question"], _history_of(item.get("history"))
    else:
        questions, history = item, ()
    if hasattr(questions, "tolist"):
        questions = questions.tolist()
    many = questions if isinstance(questions, list) else [questions]
    return [Turn(_checked_text(question, "question"), history) for question in many]


def _history_of(value: Any) -> tuple[str, ...]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    # pandas fills the history of rows that have none with NaN or NA
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ()
    if not isinstance(value, list | tuple):
        raise bad_input("history must be a list of texts: question, answer, question, answer, ...")
    return tuple(_checked_text(text, "history") for text in value)


def _checked_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise bad_input(f"A {name} must be a text, not {type(value).__name__}.")
    if not value.strip():
        raise bad_input(f"A {name} is empty; write some text.")
    if _HALF_CHARACTER.search(value):
        raise bad_input(f"A {name} holds half of a character (a lone surrogate); send whole characters.")
    return value
