"""Checking JSON that somebody else wrote against one of our dataclasses, with pydantic; the mistake in one sentence.

Strict: no text is taken for a number. pydantic is imported when something is checked.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")
STRICT = {"strict": True, "extra": "forbid", "allow_inf_nan": False}  # as a dataclass's __pydantic_config__


class Invalid(ValueError):
    """The first mistake: `prompt.margin is -1`."""

    def __init__(self, problem: str, allowed: str):
        super().__init__(problem)
        self.allowed = allowed  # a sentence, or nothing


def parse(kind: type[T], json_text: str | bytes) -> T:
    """The object that the text describes. Raises Invalid."""
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_json(json_text)
    except ValidationError as exc:
        raise _invalid(kind, exc.errors(include_url=False)[0]) from exc


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _invalid(kind: type, error: Any) -> Invalid:
    place = [part for part in error["loc"] if part != "[key]"]
    key = ".".join(map(str, place)) or "the content"
    allowed = f"{error['msg'].replace('Input', 'It', 1)}."
    if "[key]" in error["loc"]:
        return Invalid(f"{key} is unknown", allowed)
    match error["type"]:
        case "unexpected_keyword_argument":
            return Invalid(f"{key} is unknown", f"Use {', '.join(_keys(kind, place[:-1]))}.")
        case "missing":
            return Invalid(f"{key} is missing", "It is required.")
        case "json_invalid":
            return Invalid(f"not valid JSON ({error['ctx']['error']})", "Use JSON.")
        case "value_error":  # of a dataclass's own __post_init__
            return Invalid(f"{key} {error['ctx']['error']}", "")
    return Invalid(f"{key} is {reprlib.repr(error['input'])}", allowed)


def _keys(kind: Any, place: Sequence[Any]) -> list[str]:
    """The keys that are known at this place."""
    for name in place:
        kind = get_type_hints(kind)[name] if is_dataclass(kind) else get_args(kind)[-1]
    return [item.name for item in fields(kind)]
