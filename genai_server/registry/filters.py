"""Conditions of MLflow's searches, with a text from somewhere else in them."""

from __future__ import annotations

import re

_UNQUOTABLE = re.compile(r"['\\]")


def equals(field: str, value: str) -> str:
    """The condition that `field` has this value.

    MLflow's filters have no escape: of a value with an apostrophe or a backslash the condition finds those that have
    any other character in its place too, so whoever asks compares what was found with the value.
    """
    if _UNQUOTABLE.search(value):
        return f"{field} LIKE '{_UNQUOTABLE.sub('_', value)}'"
    return f"{field} = '{value}'"
