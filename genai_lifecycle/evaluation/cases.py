"""Cases: questions with their reference answers, read from JSON lines."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genai_lifecycle.errors import CasesInvalid

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON's escapes can name one; UTF-8 cannot hold it
_HINT = 'Each line is {"question": "...", "reference": "..."}, for example as in bundled_model/corpus/cases.jsonl.'


@dataclass(frozen=True)
class Case:
    """A question and the answer it should get."""

    question: str
    reference: str


def load_cases(path: Path) -> list[Case]:
    """Read a case file; blank lines are skipped.

    Raises:
        CasesInvalid: the file is missing, unreadable, empty or malformed; the message has the line's number.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as exc:
        raise CasesInvalid(f"The case file {path} cannot be read: {exc.strerror}.", hint=_HINT) from exc
    except UnicodeDecodeError as exc:
        raise CasesInvalid(f"The case file {path} is not UTF-8 text (byte {exc.start}).", hint=_HINT) from exc
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise CasesInvalid(f"The case file {path} is empty.", hint=_HINT)
    return [_case(path, number, line) for number, line in lines]


def _case(path: Path, number: int, line: str) -> Case:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as exc:
        raise CasesInvalid(f"{path}, line {number}: not valid JSON ({exc.msg}).", hint=_HINT) from exc
    if not isinstance(item, dict):
        raise CasesInvalid(f"{path}, line {number}: not an object.", hint=_HINT)
    for name in ("question", "reference"):
        if not _is_text(item.get(name)):
            raise CasesInvalid(f"{path}, line {number}: {name!r} is missing or not a text.", hint=_HINT)
    return Case(item["question"], item["reference"])


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not _HALF_CHARACTER.search(value)


def cases_sha256(cases: Sequence[Case]) -> str:
    """Tells whether two scores are over the same cases, in the same order."""
    return hashlib.sha256(json.dumps([[case.question, case.reference] for case in cases]).encode()).hexdigest()


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` cases taken at even distances, so that a sorted file gives a fair sample; all if there are fewer."""
    if count >= len(cases):
        return list(cases)
    return [cases[i * len(cases) // count] for i in range(count)]
