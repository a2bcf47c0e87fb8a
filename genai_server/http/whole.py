"""Whole numbers as JSON knows them: 5.0 is one too, which a strict `int` would refuse."""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator


def _read(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


whole = BeforeValidator(_read)  # stands behind the Field of an int
